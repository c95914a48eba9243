package sharing

import (
	"slices"
	"testing"

	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// TestShares: a layer of three views is on the disk once, and in memory once.
func TestShares(t *testing.T) {
	t.Parallel()
	digest := func(c string) string { return "sha256:" + c + "123456789ab" }
	level := &ldapmap.Resolution{Layers: []ldapmap.Layer{
		{Name: "base", Digest: digest("a"), Size: 1000}, {Name: "bin", Digest: digest("b"), Size: 30}, {Name: "plain", FSType: "dir"},
	}}
	view := func(layers ...string) []Layer { return Layers(mounter.View{Layers: layers}, level) }
	const base, bin = "base@a123456789ab", "bin@b123456789ab"
	got := Shares([][]Layer{
		view(bin, base+"+segment.BASE"), view(base+"+segment.BASE", "plain@dir"), view(base, base), view("other@c123456789ab", "bin@ffff", "empty"), nil,
		view(bin+"+pmem.pmem0", base+"+segment.BASE"),
	}, []bool{true, true, false, true, true, false})
	want := []Share{{1030, 0, 1000}, {1000, 1000, 0}, {2000, 2000, 0}, {0, 0, 0}, {}, {1030, 1030, 0}}
	if total := Sum(got); total != (Share{5060, 4030, 1000}) {
		t.Errorf("total %+v", total)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
