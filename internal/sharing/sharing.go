// Package sharing says what it saves that views share their layers.
//
// A layer is one image on the disk and one superblock in memory, however many views have
// it. What each view would take by itself, and what all take together, differ by what is
// saved, wherever in their stacks they have it. Sizes are those of the images, as the inventory
// says them; where it does not, or the definition of a layer is not known, the layers are
// counted instead. One that is a plain directory has no image, and takes nothing.
//
// When not to use it: to say how much memory is used. An image is in memory as far as it is
// read; of what is executed in place only the upper bound of what is not is known.
package sharing

import (
	"strings"

	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// A Layer is one of a mounted view.
type Layer struct {
	ID     string // name and digest, as the mount has them: emacs-bin@3f2a9c81d0e4
	Bytes  int64  // of the image; 0 if it has none or it is not known
	Image  bool   // it has one
	Memory bool   // it is on a segment or a pmem device
}

// Layers are those of a view, with their sizes from the definitions that are known, such as
// the mount has left in the cache: of the level's layers, and of those above it.
func Layers(v mounter.View, definitions []ldapmap.Layer) []Layer {
	var layers []Layer
	for _, mounted := range v.Layers {
		id, _, _ := strings.Cut(mounted, "+")
		id, _, _ = strings.Cut(id, "~") // as what kind it lies there makes no other image of it
		l := Layer{ID: id, Memory: mounter.InSharedMemory(mounted)}
		name, digest, isLayer := strings.Cut(id, "@")
		l.Image = digest != "dir" // see [mounter.Layer.Content]
		for _, known := range definitions {
			if isLayer && known.Name == name && strings.HasPrefix(strings.TrimPrefix(known.Digest, "sha256:"), digest) {
				l.Bytes = known.Size
			}
		}
		layers = append(layers, l)
	}
	return layers
}

// A Share is what a view takes of the disk.
type Share struct {
	LayerBytes  int64 `json:"layerBytes"`  // in its layers
	SharedBytes int64 `json:"sharedBytes"` // of them, in layers that a view before it has, too
	// InPlaceBytes are those in layers on shared memory that no view before it has, if all
	// that was asked for of the view is executed in place.
	InPlaceBytes int64 `json:"inPlaceBytes"`
	// UnsizedLayers are images of which the size is not known. The others are counted as if
	// these were not there.
	UnsizedLayers int `json:"unsizedLayers"`
}

// Sum adds shares up.
func Sum(shares []Share) (total Share) {
	for _, s := range shares {
		total.LayerBytes += s.LayerBytes
		total.SharedBytes += s.SharedBytes
		total.InPlaceBytes += s.InPlaceBytes
		total.UnsizedLayers += s.UnsizedLayers
	}
	return total
}

// Shares are those of views, in their order. Of all views together the layers take
// the sum of LayerBytes less that of SharedBytes, which is what sharing saves. inPlace says
// of each view whether it is executed in place.
func Shares(views [][]Layer, inPlace []bool) []Share {
	shares := make([]Share, len(views))
	seen, resident := make(map[string]bool), make(map[string]bool)
	for i, layers := range views {
		for _, l := range layers {
			shares[i].LayerBytes += l.Bytes
			if l.Image && l.Bytes == 0 {
				shares[i].UnsizedLayers++
			}
			if seen[l.ID] {
				shares[i].SharedBytes += l.Bytes
			}
			seen[l.ID] = true
			if l.Memory && inPlace[i] && !resident[l.ID] {
				resident[l.ID] = true
				shares[i].InPlaceBytes += l.Bytes
			}
		}
	}
	return shares
}
