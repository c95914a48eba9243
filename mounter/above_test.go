package mounter

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// above is a layer that is added above a level.
func above(kind string, l Layer) Layer {
	l.Kind = kind
	return l
}

// TestAbove: what is added above a level is told by the names of the mounts, whatever the
// layers are called and wherever they are mounted from.
func TestAbove(t *testing.T) {
	t.Parallel()
	plain, segment := erofs("a~site+1", "1"), above("user", erofs("b~c", "2"))
	segment.chosen = &Device{Kind: Segment, Name: "A$:B"}
	layers := []Layer{segment, above("group", dir("d+e")), above("site", erofs("f", "3")), plain}
	var v View
	for _, l := range layers {
		v.Layers = append(v.Layers, l.mountName())
		if got := KindOf(l.mountName()); got != l.Kind {
			t.Errorf("%q is of kind %q", l.mountName(), got)
		}
	}
	if want := []string{layers[0].Content(), layers[1].Content(), layers[2].Content()}; !slices.Equal(v.Above(), want) {
		t.Errorf("%q, want %q", v.Above(), want)
	}
	if want := []string{layers[0].Name, layers[1].Name, layers[2].Name}; !slices.Equal(v.AboveNames(), want) {
		t.Errorf("%q, want %q", v.AboveNames(), want)
	}
	if !InSharedMemory(v.Layers[0]) || !IsOf(v.Layers[0], Device{Kind: Segment, Name: "A$"}) || InSharedMemory(v.Layers[2]) {
		t.Errorf("%q", v.Layers)
	}
	for _, name := range []string{"empty", "a@dir", "a~site@0123456789ab+pmem.x"} {
		if kind := KindOf(name); kind != "" {
			t.Errorf("%q is of kind %q", name, kind)
		}
	}
}

// TestShowsAbove: a view is what the plan makes only with the same layers above the level.
func TestShowsAbove(t *testing.T) {
	t.Parallel()
	site := above("site", erofs("s", "3"))
	view := func(layers ...Layer) View {
		v := View{Name: "emacs@29.4-1"}
		for _, l := range layers {
			v.Layers = append(v.Layers, l.mountName())
		}
		return v
	}
	p, err := Build(request(kept(), site, erofs("a", "1"), dir("b")))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		v    View
		want bool
	}{
		{view(site, erofs("a", "1"), dir("b")), true},
		{view(erofs("a", "1"), dir("b")), false},
		{view(above("site", erofs("s", "4")), erofs("a", "1"), dir("b")), false},
		{view(above("host", erofs("s", "3")), erofs("a", "1"), dir("b")), false},
	} {
		if got := p.Shows(c.v); got != c.want {
			t.Errorf("%q: %v", c.v.Layers, got)
		}
	}
	// The root directory of the private layer is made after the level's.
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Op == OpPrivate })
	if got, want := p.Steps[i].Path, p.staged(p.Layers[1]); got != want {
		t.Errorf("the private layer is made after %q, want %q", got, want)
	}
}

// TestRecordAbove: the record has the layers above the level with their kinds, and says
// which level it is without them.
func TestRecordAbove(t *testing.T) {
	t.Parallel()
	private := &Private{Dir: t.TempDir()}
	site, user := above("site", erofs("s", "3")), above("user", dir("u"))
	site.UUID = uuidText
	plan := func(layers ...Layer) *Plan {
		t.Helper()
		r := request(private, layers...)
		r.Released = true
		p, err := Build(r)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	x := func(p *Plan) *execution { return &execution{applier: &Applier{}, plan: p} }
	first := plan(user, site, erofs("a", "1"))
	want := "level emacs@29.4-1\nabove user u - -\nabove site s " + site.Digest + " " + uuidText + "\nlayer a " + digest("1") + " -\n"
	if got := first.levelRecord(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// Released as it is, the level may come with other layers above it.
	for _, p := range []*Plan{first, plan(erofs("a", "1")), plan(site, erofs("a", "1"))} {
		if err := x(p).record(private.level()); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(private.level()); err != nil || string(text) != p.levelRecord() {
			t.Errorf("%q, %v", text, err)
		}
	}
	var changed *ChangedError
	err := x(plan(site, erofs("a", "2"))).record(private.level())
	if !errors.As(err, &changed) || strings.Contains(err.Error(), "above") || !strings.Contains(err.Error(), "layer a "+digest("1")) {
		t.Errorf("%v", err)
	}
	bases, err := Bases(private.Dir)
	if err != nil || len(bases) != 3 {
		t.Fatalf("%+v, %v", bases, err)
	}
	wantLayers := []BaseLayer{{Name: "u", Kind: "user"}, {Name: "s", Digest: site.Digest, UUID: uuidText, Kind: "site"}, {Name: "a", Digest: digest("1")}}
	if !reflect.DeepEqual(bases[0].Layers, wantLayers) || !slices.Equal(bases[0].Above(), []string{"u", "s"}) {
		t.Errorf("%+v, want %+v", bases[0].Layers, wantLayers)
	}
	if len(bases[1].Above()) != 0 || !slices.Equal(bases[2].Above(), []string{"s"}) {
		t.Errorf("%+v", bases)
	}
	// All that was one level.
	if periods, err := History(private.Dir); err != nil || len(periods) != 1 {
		t.Errorf("%+v, %v", periods, err)
	}
}
