package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path"
	"path/filepath"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// Host is the name of every guest.
const Host = "guest.example.org"

// ImageDir is where a guest has its images.
const ImageDir = "/var/lib/levelfs/images"

// Inventory adds an inventory, and a levelfs.toml in which the guest is its host.
func (a *Archive) Inventory(inv testenv.Inventory) {
	inv.Hosts = []testenv.Caller{{Name: Host}}
	a.File("/etc/levelfs/levelfs.toml", 0o644, []byte("host = \""+Host+"\"\nimages = [\""+ImageDir+"\"]\n"))
	a.File("/etc/levelfs/inventory.d/levels.ldif", 0o644, []byte(inv.LDIF()))
	a.Dir("/var/lib/levelfs")
}

// Image adds an image file to those that the guest has.
func (a *Archive) Image(file string) { a.Copy(path.Join(ImageDir, filepath.Base(file)), file, 0o444) }

// Describe describes an image file as a layer, which has its name.
func Describe(name, file string) (testenv.Layer, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return testenv.Layer{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return testenv.Layer{}, err
	}
	defer f.Close()
	fstype, uuid, err := mounter.Probe(f)
	digest := sha256.Sum256(content)
	return testenv.Layer{
		Name: name, FSType: fstype, Digest: "sha256:" + hex.EncodeToString(digest[:]), UUID: uuid,
		Size: int64(len(content)), Images: []string{filepath.Base(file)},
	}, err
}

// Tool is a component with one level of one layer, which is everybody's: level 1.
func Tool(name, xip, layer string) testenv.Component {
	return testenv.Component{
		Name: name, Default: "1", XIP: xip,
		Levels: []testenv.Level{{Name: "1", State: "released", Layers: []string{layer}}},
	}
}

// Software adds automount from the packages' tree, and the commands.
func (a *Archive) Software(ctx context.Context, architecture string, packages *Tree, dir string) error {
	a.Automount(packages)
	return a.Levelfs(ctx, architecture, dir)
}
