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
	definitions := []ldapmap.Layer{
		{Name: "base", Digest: digest("a"), Size: 1000}, {Name: "bin", Digest: digest("b"), Size: 30}, {Name: "plain", FSType: "dir"},
		{Name: "site", Digest: digest("d"), Size: 7, Kind: ldapmap.KindSite}, {Name: "unsized", Digest: digest("e")},
	}
	view := func(layers ...string) []Layer { return Layers(mounter.View{Layers: layers}, definitions) }
	const base, bin = "base@a123456789ab", "bin@b123456789ab"
	got := Shares([][]Layer{
		view(bin, base+"+segment.BASE"), view(base+"+segment.BASE", "plain@dir"), view(base, base), view("other@c123456789ab", "bin@ffff", "unsized@e123456789ab", "empty@dir"), nil,
		view(bin+"+pmem.pmem0", base+"+segment.BASE"),
		// Above a level, below one of another view, and in another place.
		view("site@d123456789ab~site", bin), view("own@dir~host", "site@d123456789ab~site+segment.SITE", "other@c123456789ab~group"),
	}, []bool{true, true, false, true, true, false, true, true})
	want := []Share{{1030, 0, 1000, 0}, {1000, 1000, 0, 0}, {2000, 2000, 0, 0}, {0, 0, 0, 3}, {}, {1030, 1030, 0, 0}, {37, 30, 0, 0}, {7, 7, 7, 1}}
	if total := Sum(got); total != (Share{5104, 4067, 1007, 4}) {
		t.Errorf("total %+v", total)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
