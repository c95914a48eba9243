package mounter

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// look returns whose the files of a layer's id are in the view.
func look(extents []Extent, id uint32) (uint32, bool) {
	for _, e := range extents {
		if id >= e.Layer && uint64(id) < uint64(e.Layer)+uint64(e.Count) {
			return e.View + (id - e.Layer), true
		}
	}
	return 0, false
}

// TestRootTo: root is mapped to the id, nothing to root, no two ids to one, and no
// id gets another's files.
func TestRootTo(t *testing.T) {
	t.Parallel()
	const last = math.MaxUint32 - 1 // the largest id
	for _, id := range []uint32{1, 2, 3, 1000, 65534, 1 << 31, last - 1, last} {
		extents := rootTo(id)
		if got, ok := look(extents, 0); !ok || got != id {
			t.Errorf("%d: root's are %d's, %v", id, got, ok)
		}
		if got, ok := look(extents, id); ok {
			t.Errorf("%d: its own in the layer are %d's", id, got)
		}
		for _, other := range []uint32{1, 2, 3, id - 1, id + 1, 1000, 65534, 1 << 31, last - 1, last} {
			if other == id || other == 0 || other > last {
				continue
			}
			if got, ok := look(extents, other); !ok || got != other {
				t.Errorf("%d: %d's are %d's, %v", id, other, got, ok)
			}
		}
		for _, e := range extents {
			if e.Count == 0 || uint64(e.Layer)+uint64(e.Count) > math.MaxUint32 || uint64(e.View)+uint64(e.Count) > math.MaxUint32 {
				t.Errorf("%d: the kernel refuses the extent %v", id, e)
			}
			if e.View == 0 {
				t.Errorf("%d: extent %v maps to root", id, e)
			}
		}
	}
	for _, id := range []uint32{0, 1, last} {
		if got, ok := look(rootTo(0), id); !ok || got != id {
			t.Errorf("for root %d's are %d's, %v", id, got, ok)
		}
	}
}

func TestIDMapOption(t *testing.T) {
	t.Parallel()
	const want = "X-mount.idmap=u:0:1001:1 u:1:1:1000 u:1002:1002:4294966293 g:0:0:4294967295"
	if got := (&Owner{UID: 1001}).idMap().option(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (&Owner{}).idMap(); got != nil {
		t.Errorf("for root: %v", got)
	}
}

func TestOwns(t *testing.T) {
	t.Parallel()
	upper := filepath.Join(t.TempDir(), "upper")
	if err := os.Mkdir(upper, 0o700); err != nil {
		t.Fatal(err)
	}
	me := uint32(os.Getuid())
	if err := makePrivate("", upper, upper+".work", &Owner{UID: me}); err != nil {
		t.Error(err)
	}
	err := makePrivate("", upper, upper+".work", &Owner{UID: me + 1})
	var other *OwnerError
	if !errors.As(err, &other) || other.Got != me || other.Want != me+1 || !strings.Contains(err.Error(), filepath.Dir(upper)) {
		t.Errorf("another's private layer: %v", err)
	}
}
