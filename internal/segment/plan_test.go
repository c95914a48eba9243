package segment

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const mib = 1 << 20

func segmentsOf(t *testing.T, texts ...string) []Segment {
	t.Helper()
	var list []Segment
	for _, text := range texts {
		s, err := ParseSegment(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

// short is a plan as one line a layer.
func short(plan []Assignment) string {
	var b strings.Builder
	for _, a := range plan {
		fmt.Fprintf(&b, "%s %v", a.Layer, a.Segments)
		if a.New {
			fmt.Fprintf(&b, " new: %s", a.Why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	layer := func(name string, size int64, device string, segments ...string) Layer {
		l := Layer{Name: name, Size: size, Segments: segmentsOf(t, segments...)}
		if device != "" {
			names, err := ParseNames(device)
			if err != nil {
				t.Fatal(err)
			}
			l.Devices = [][]string{names}
		}
		return l
	}
	for _, test := range []struct {
		name           string
		layers, others []Layer
		together       func(a, b string) bool
		want           string
	}{
		{name: "nothing"},
		{name: "new",
			layers: []Layer{layer("vi-9", 3*mib, ""), layer("emacs-29.4", 2*mib, "")},
			want: `emacs-29.4 [EMACS294:20000-201FF] new: no segment yet
vi-9 [VI9:20200-205FF] new: no segment yet
`},
		{name: "kept, and the gap before it used",
			layers: []Layer{layer("a", 4*mib, "OLD", "OLD:20400-207FF"), layer("b", 4*mib, ""), layer("c", 2*mib, "")},
			want: `a [OLD:20400-207FF]
b [B:20000-203FF] new: no segment yet
c [C:20800-209FF] new: no segment yet
`},
		{name: "not the address of one that is not planned",
			layers: []Layer{layer("b", 2*mib, "")},
			others: []Layer{layer("a", 2*mib, "A", "A:20010-20110"), layer("c", mib, "B")},
			want:   "b [B1:20200-203FF] new: no segment yet\n"},
		{name: "a name and no pages",
			layers: []Layer{layer("a", 2*mib, "CHOSEN")},
			want:   "a [CHOSEN:20000-201FF] new: no pages of CHOSEN yet\n"},
		{name: "names and no pages, and not as many as it needs",
			layers: []Layer{layer("a", 2*mib, "A:B")},
			want:   "a [A1:20000-201FF] new: it needs 1, and the inventory names 2: A:B\n"},
		{name: "two with one name",
			layers: []Layer{layer("a", 2*mib, "X", "X:20000-201FF"), layer("b", 2*mib, "X", "X:20200-203FF")},
			want: `a [X:20000-201FF]
b [B:20400-205FF] new: X is also a segment of layer a
`},
		{name: "overlap",
			layers: []Layer{layer("a", 2*mib, "A", "A:20000-203FF"), layer("b", 2*mib, "B", "B:20200-203FF")},
			want: `a [A:20000-203FF]
b [B1:20400-205FF] new: 20200-203FF overlaps layer a
`},
		{name: "misaligned", layers: []Layer{layer("a", 2*mib, "A", "A:20100-202FF")},
			want: "a [A1:20400-205FF] new: 20100-202FF does not begin and end at 2 MiB\n"},
		{name: "outside", layers: []Layer{layer("a", 2*mib, "A", "A:40000-401FF")},
			want: "a [A1:20000-201FF] new: 40000-401FF lies outside of 20000-3FFFF\n"},
		{name: "too small", layers: []Layer{layer("a", 3*mib, "A", "A:20000-201FF")},
			want: "a [A1:20200-205FF] new: 20000-201FF is smaller than the image\n"},
		{name: "contiguous, in the order of addresses", layers: []Layer{layer("a", 4*mib, "B:A", "A:20000-201FF", "B:20200-203FF")},
			want: "a [A:20000-201FF B:20200-203FF]\n"},
		{name: "not contiguous", layers: []Layer{layer("a", 4*mib, "A:B", "A:20000-201FF", "B:20400-205FF")},
			want: "a [A1:20600-209FF] new: B is not contiguous to the one before it\n"},
		{name: "disjoint without reuse", layers: []Layer{layer("a", 2*mib, ""), layer("b", 4*mib, "")},
			want: "a [A:20000-201FF] new: no segment yet\nb [B:20200-205FF] new: no segment yet\n"},
		{name: "reuse", layers: []Layer{layer("a", 2*mib, ""), layer("b", 4*mib, ""), layer("c", 2*mib, "")},
			together: func(a, b string) bool { return a == b || a+b == "ac" || a+b == "ca" },
			want: `a [A:20000-201FF] new: no segment yet
b [B:20000-203FF] new: no segment yet
c [C:20200-203FF] new: no segment yet
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := Options{Range: Range{0x20000, 0x3ffff}, Together: test.together}
			plan, err := Plan(test.layers, test.others, o)
			if err != nil {
				t.Fatal(err)
			}
			if got := short(plan); got != test.want {
				t.Errorf("got:\n%swant:\n%s", got, test.want)
			}
		})
	}
}

func TestPlanLarge(t *testing.T) {
	plan, err := Plan([]Layer{{Name: "jdk-21", Size: 5000 * mib}}, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const want = "jdk-21 [JDK21A:1000000-107FDFF JDK21B:107FE00-10FFBFF JDK21C:10FFC00-11387FF] new: no segment yet\n"
	if got := short(plan); got != want {
		t.Errorf("got %swant %s", got, want)
	}
	if got := plan[0].Device(); got != "JDK21A:JDK21B:JDK21C" {
		t.Errorf("device %s", got)
	}
}

func TestPlanErrors(t *testing.T) {
	_, err := Plan([]Layer{{Name: "a", DN: "cn=a"}, {Name: "b", Size: 1}}, nil, Options{})
	if err == nil || !strings.Contains(err.Error(), `"a" (cn=a) has no levelfsSize`) {
		t.Errorf("%v", err)
	}
	var full *FullError
	_, err = Plan([]Layer{{Name: "a", Size: 3 * mib}, {Name: "b", Size: 3 * mib}, {Name: "c", Size: 2 * mib}}, nil, Options{Range: Range{0x20000, 0x205ff}})
	if !errors.As(err, &full) || full.Missing != 4*mib || !reflect.DeepEqual(full.Layers, []string{"b"}) {
		t.Errorf("%v", err)
	}
}

func TestBaseName(t *testing.T) {
	for layer, want := range map[string]string{
		"emacs-29.4": "EMACS294", "openjdk-17.0.9-1": "OPE17091", "gcc-libs-13": "GCCLIB13", "base": "BASE",
		"7zip-1": "L7ZIP1", "verylongname": "VERYLONG", "a+b~c": "ABC", "x-123456789": "X12345",
	} {
		if got := baseName(layer); got != want {
			t.Errorf("%s: %s, want %s", layer, got, want)
		}
	}
}

// A thousand layers of one name's kind get a thousand names, and none is a keyword.
func TestNames(t *testing.T) {
	layers := []Layer{{Name: "all", Size: 1}, {Name: "map", Size: 5000 * mib}}
	for i := range 1000 {
		layers = append(layers, Layer{Name: fmt.Sprintf("openjdk-17.0.9-1.%d", i), Size: 1})
	}
	plan, err := Plan(layers, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, a := range plan {
		for _, s := range a.Segments {
			if _, err := ParseNames(s.Name); err != nil || seen[s.Name] || reserved(s.Name) || s.Name[0] < 'A' || s.Name[0] > 'Z' {
				t.Fatalf("%s: %q, %v", a.Layer, s.Name, err)
			}
			seen[s.Name] = true
		}
	}
}

// The rules, on inventories of all kinds: nothing that goes together collides, all is in
// the range and at 2 MiB, what was kept is as it was, nothing new lies where anything
// was, and a plan that is carried out is planned the same again.
func TestPlanProperties(t *testing.T) {
	for seed := range int64(300) {
		r := rand.New(rand.NewSource(seed))
		o := Options{Range: Range{0x100000 + r.Int63n(3000), 0x1000000}}
		if r.Intn(2) == 0 {
			o.Together = func(a, b string) bool { return a[:3] == b[:3] } // by the hundred
		}
		var layers, others []Layer
		for i := range 20 + r.Intn(60) {
			l := Layer{Name: fmt.Sprintf("l%03d-%d", r.Intn(3)*100+i, i), Size: 1 + r.Int63n(int64(1+r.Intn(60))*mib)}
			if r.Intn(20) == 0 {
				l.Size += 3000 * mib
			}
			if r.Intn(2) == 0 { // it has a place, more or less
				begin := int64(0x100000) + r.Int63n(0x2000)*int64(1+511*r.Intn(2))
				s := Segment{fmt.Sprintf("S%d", r.Intn(50)), Range{begin, begin + roundUp(l.Size, Unit)/PageSize - 1 - int64(r.Intn(2)*r.Intn(3))}}
				l.Segments, l.Devices = []Segment{s}, [][]string{{s.Name}}
				if r.Intn(4) == 0 {
					l.Segments = nil
				}
			}
			if r.Intn(4) == 0 {
				others = append(others, l)
			} else {
				layers = append(layers, l)
			}
		}
		plan, err := Plan(layers, others, o)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		checkPlan(t, layers, others, plan, o)

		for i := range layers {
			for _, a := range plan {
				if a.Layer == layers[i].Name {
					layers[i].Segments = a.Segments
					layers[i].Devices = [][]string{strings.Split(a.Device(), ":")}
				}
			}
		}
		again, err := Plan(layers, others, o)
		if err != nil {
			t.Fatalf("seed %d, again: %v", seed, err)
		}
		for i := range again {
			if again[i].New || !reflect.DeepEqual(again[i].Segments, plan[i].Segments) {
				t.Errorf("seed %d: %s was %v, now %v: %s", seed, again[i].Layer, plan[i].Segments, again[i].Segments, again[i].Why)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

func checkPlan(t *testing.T, layers, others []Layer, plan []Assignment, o Options) {
	t.Helper()
	was := make(map[string]Layer)
	names := make(map[string]bool)
	for _, l := range layers {
		was[l.Name] = l
	}
	if len(plan) != len(layers) {
		t.Errorf("%d assignments of %d layers", len(plan), len(layers))
	}
	for i, a := range plan {
		whole := a.Range()
		next := whole.Begin
		for _, s := range a.Segments {
			if s.Range.Begin != next || s.Range.Bytes() > 2047*mib || names[s.Name] {
				t.Errorf("%s: %v", a.Layer, a.Segments)
			}
			next = s.Range.End + 1
			names[s.Name] = true
		}
		if whole.Begin%512 != 0 || (whole.End+1)%512 != 0 || whole.Begin < o.Range.Begin || whole.End > o.Range.End || whole.Bytes() < a.Size {
			t.Errorf("%s: %v in %v", a.Layer, a.Segments, o.Range)
		}
		for _, b := range plan[:i] {
			if (o.Together == nil || o.Together(a.Layer, b.Layer)) && whole.Collides(b.Range()) {
				t.Errorf("%s and %s collide: %v, %v", a.Layer, b.Layer, whole, b.Range())
			}
		}
		if !a.New {
			if !slices.Equal(a.Segments, was[a.Layer].Segments) {
				t.Errorf("%s was kept at %v, not %v", a.Layer, a.Segments, was[a.Layer].Segments)
			}
			continue
		}
		for _, l := range others {
			for _, s := range l.Segments {
				if s.Range.Collides(whole) || slices.ContainsFunc(a.Segments, func(n Segment) bool { return n.Name == s.Name }) {
					t.Errorf("%s is new at %v, which layer %s has", a.Layer, a.Segments, l.Name)
				}
			}
		}
	}
}

// The order in which an inventory is read does not matter.
func TestPlanOrder(t *testing.T) {
	var layers []Layer
	for i := range 50 {
		layers = append(layers, Layer{Name: fmt.Sprint("l-", i), Size: int64(i%7+1) * mib})
	}
	var want []byte
	for seed := range int64(5) {
		rand.New(rand.NewSource(seed)).Shuffle(len(layers), func(i, j int) { layers[i], layers[j] = layers[j], layers[i] })
		plan, err := Plan(layers, nil, Options{Together: func(a, b string) bool { return len(a) == len(b) }})
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		if want != nil && string(got) != string(want) {
			t.Fatalf("got %s\nwant %s", got, want)
		}
		want = got
	}
}
