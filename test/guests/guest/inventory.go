package guest

import (
	"context"
	"fmt"
	"path"
	"path/filepath"

	"github.com/levelfs/levelfs/internal/layer"
	"github.com/levelfs/levelfs/internal/testenv"
)

// imageDir is where the guest has its images.
const imageDir = "/var/lib/levelfs/images"

// Inventory adds an inventory, and a levelfs.toml in which the guest is that host.
func (a *Archive) Inventory(host string, inv testenv.Inventory) {
	a.File("/etc/levelfs/levelfs.toml", 0o644, fmt.Appendf(nil, "host = %q\nimages = [%q]\n", host, imageDir))
	a.File("/etc/levelfs/inventory.d/levels.ldif", 0o644, []byte(inv.LDIF()))
	a.Dir("/var/lib/levelfs")
}

// Layer builds an image of the tree and adds it. The directory dir is for the work.
func (a *Archive) Layer(ctx context.Context, name, tree, dir string) (testenv.Layer, error) {
	file := name + ".erofs"
	r, err := layer.Build(ctx, tree, filepath.Join(dir, file), layer.BuildOptions{})
	if err != nil {
		return testenv.Layer{}, err
	}
	a.Copy(path.Join(imageDir, file), r.Path, 0o444)
	return testenv.Layer{
		Name: name, FSType: r.FSType, Digest: r.Digest, UUID: r.UUID, Size: r.Size, Images: []string{file},
	}, nil
}

// Demo adds all that CheckLevelfs of package inside needs for component tool at level 1,
// which is the tree: automount from the packages' tree, the commands, an image and
// an inventory.
func (a *Archive) Demo(ctx context.Context, architecture string, packages *Tree, tree, dir string) error {
	a.Automount(packages)
	if err := a.Levelfs(ctx, architecture, dir); err != nil {
		return err
	}
	l, err := a.Layer(ctx, "tool", tree, dir)
	if err != nil {
		return err
	}
	a.Inventory("guest.example.org", testenv.Inventory{
		Layers: []testenv.Layer{l},
		Components: []testenv.Component{{
			Name: "tool", Default: "1", Levels: []testenv.Level{{Name: "1", State: "released", Layers: []string{"tool"}}},
		}},
		Hosts: []testenv.Caller{{Name: "guest.example.org"}},
	})
	return nil
}
