package lint

import (
	"fmt"
	"maps"
	"slices"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/ldapmap"
)

// stacks checks released levels against their seals, and for layers that nothing holds
// to their names.
func (l *linter) stacks() {
	for _, e := range l.entries {
		if !ldapmap.IsLevel(e.Entry) {
			continue
		}
		v, err := e.Level()
		if err != nil {
			continue
		}
		var layers []ldapmap.Layer
		for _, name := range v.Layers {
			if y, ok := l.layers[name]; ok && y.Name != "" {
				layers = append(layers, y.Layer)
			}
		}
		if len(layers) < len(v.Layers) {
			continue // that is a finding of its own
		}
		seal := ldapmap.Seal(v.Name, layers)
		switch {
		case v.Seal == "" && v.State == "released":
			l.add(finding.NoSeal, e, fmt.Sprintf("level %q is released, and not sealed", v.Name), fmt.Sprintf("add %q", "levelfsSeal: "+seal))
		case v.Seal != "" && v.Seal != seal:
			l.add(finding.BrokenSeal, e, fmt.Sprintf("level %q was sealed as %s, and is %s now, of %s", v.Name, v.Seal, seal, describe(layers)),
				"bring the layers back that it was sealed with, and publish these as another level")
		}
		for _, y := range layers {
			if y.Digest == "" && v.State == "released" {
				l.add(finding.NoDigest, e, fmt.Sprintf("level %q is released, and its layer %q is a plain directory", v.Name, y.Name),
					fmt.Sprintf("levelfs layer build DIRECTORY -o IMAGE --name %s", y.Name))
			}
		}
	}
}

// describe lists layers with their digests, topmost first.
func describe(layers []ldapmap.Layer) string {
	text := ""
	for i, y := range layers {
		if i > 0 {
			text += ", "
		}
		digest := y.Digest
		if digest == "" {
			digest = "no digest"
		}
		text += fmt.Sprintf("%s (%s, %s)", y.Name, y.FSType, digest)
	}
	return text
}

// contents finds layers that cannot be loaded, or are there twice.
func (l *linter) contents() {
	of := make(map[string]layer) // by digest
	for _, y := range l.sortedLayers() {
		if len(y.Images)+len(y.Segments) == 0 {
			l.add(finding.NoImage, y.entry, fmt.Sprintf("layer %q has no image and no segment", y.Name), `add "levelfsImage: FILE"`)
		}
		if y.Digest == "" {
			continue
		}
		if other, twice := of[y.Digest]; twice {
			l.add(finding.SameDigest, y.entry, fmt.Sprintf("layers %q and %q have one digest, %s", other.Name, y.Name, y.Digest),
				fmt.Sprintf("name %q in all levels, and delete %q", other.Name, y.Name))
			continue
		}
		of[y.Digest] = y
	}
}

// sortedLayers are the layers that count, by name. One that could not be decoded has no
// name and is not among them.
func (l *linter) sortedLayers() []layer {
	var layers []layer
	for _, name := range slices.Sorted(maps.Keys(l.layers)) {
		if y := l.layers[name]; y.Name == name {
			layers = append(layers, y)
		}
	}
	return layers
}
