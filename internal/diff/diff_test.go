package diff_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/manifest"
	"github.com/levelfs/levelfs/mounter"
)

// A lister has the lists of layers by name.
type lister map[string]string

type stream struct{ *manifest.Reader }

func (l lister) open(b mounter.BaseLayer) (diff.Stream, error) {
	text, ok := l[b.Name]
	if !ok {
		return nil, fmt.Errorf("no list of %q", b.Name)
	}
	return manifest.NewReader(strings.NewReader(text)), nil
}

// list is a manifest of files: NAME or NAME=CONTENT; a directory ends in a slash, an opaque
// one in two, and a whiteout in -.
func list(t testing.TB, files ...string) string {
	t.Helper()
	entries := map[string]*manifest.Entry{".": {Path: ".", Type: manifest.Dir, Mode: 0o755}}
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		e := &manifest.Entry{Type: manifest.File, Mode: 0o644, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
		switch {
		case strings.HasSuffix(name, "//"):
			e.Type, e.Mode = manifest.Dir, 0o755
			e.Xattrs = []manifest.Xattr{{Name: "trusted.overlay.opaque", Value: "y"}}
		case strings.HasSuffix(name, "/"):
			e.Type, e.Mode = manifest.Dir, 0o755
		case strings.HasSuffix(name, "-"):
			e.Type, e.Mode = manifest.Char, 0
		default:
			e.Size, e.Digest = int64(len(content)), digest(content)
		}
		e.Path = strings.TrimRight(name, "/-")
		entries[e.Path] = e
	}
	var text bytes.Buffer
	w := manifest.NewWriter(&text)
	for _, name := range slices.SortedFunc(maps.Keys(entries), manifest.Compare) {
		if err := w.Write(entries[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func base(level string, since time.Time, layers ...string) mounter.Base {
	b := mounter.Base{Level: level, Since: since}
	for _, l := range layers {
		b.Layers = append(b.Layers, mounter.BaseLayer{Name: l, Digest: digest(l), UUID: uuidOf(l)})
	}
	return b
}

func uuidOf(layer string) string {
	x := strings.TrimPrefix(digest(layer), "sha256:")
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:32]
}

func write(t testing.TB, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func run(t testing.TB, r diff.Request) map[string]*diff.Finding {
	t.Helper()
	found := make(map[string]*diff.Finding)
	err := diff.Run(t.Context(), r, func(f *diff.Finding) error {
		found[f.Path] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestLayers: what is compared with is what overlayfs would show of the layers: the
// topmost has it, and whiteouts, opaque directories and files hide what is below.
func TestLayers(t *testing.T) {
	lists := lister{
		"top": list(t, "a=top", "gone-", "d/", "d/top=x", "opaque//", "opaque/new=x", "tofile=file", "todir/", "todir/x=x",
			"gonedir-", "deep/", "deep/er//", "deep/er/z=z"),
		"low": list(t, "a=low", "b=low", "gone=x", "d/", "d/low=x", "opaque/", "opaque/old=x", "tofile/", "tofile/x=x", "todir=file",
			"gonedir/", "gonedir/x=x", "deep/", "deep/er/", "deep/er/y=y", "deep/w=w"),
	}
	want := map[string]string{
		"a": "top", "b": "low", "gone": "", "d": "top", "d/top": "top", "d/low": "low", "opaque": "top", "opaque/new": "top", "opaque/old": "",
		"tofile": "top", "tofile/x": "", "todir": "top", "todir/x": "top", "gonedir": "", "gonedir/x": "",
		"deep": "top", "deep/er": "top", "deep/er/z": "top", "deep/er/y": "", "deep/w": "low",
	}
	// A private file of every name, of which each hides nothing else: one at a time.
	for name, layer := range want {
		upper := t.TempDir()
		write(t, upper, name+"=mine")
		b := base("l@1", time.Time{}, "top", "low")
		f := run(t, diff.Request{Upper: upper, Bases: []mounter.Base{b}, Now: b, Open: lists.open})[name]
		if f == nil || f.Now.Layer != layer {
			t.Errorf("%s: %+v, want it of %q", name, f, layer)
		}
	}
}

// TestBirth: the time of a file's making says which level it was made under.
func TestBirth(t *testing.T) {
	upper := t.TempDir()
	write(t, upper, "f=mine", "g=mine")
	now := time.Now()
	lists := lister{"one": list(t, "f=1", "g=1"), "two": list(t, "f=2", "g=1"), "three": list(t, "f=2", "g=3")}
	one, two, three := base("l@1", now.Add(-time.Hour), "one"), base("l@2", now.Add(time.Hour), "two"), base("l@3", now.Add(2*time.Hour), "three")
	request := diff.Request{Upper: upper, Bases: []mounter.Base{one, two, three}, Now: two, Open: lists.open}
	check := func(name string, verdict diff.Verdict, by diff.Evidence, why string) {
		t.Helper()
		f := run(t, request)[name]
		if f == nil || f.Verdict != verdict || f.By != by || !strings.Contains(f.Why, why) || why == "" && f.Why != "" {
			t.Errorf("%s: %+v, want %s by %q, %q", name, f, verdict, by, why)
		}
	}
	check("f", diff.Stale, diff.ByBirth, "")
	check("g", diff.Override, diff.ByBirth, "")
	request.Now = three
	check("g", diff.Stale, diff.ByBirth, "")
	// Somebody has accepted a level for it; one that is not on record does not count.
	request.Adopted = map[string]string{"g": diff.Record(three), "f": "l@9 x:y"}
	check("g", diff.Override, diff.ByAdoption, "")
	check("f", diff.Stale, diff.ByBirth, "")
	// Older than all that is known.
	request.Adopted = nil
	request.Bases = []mounter.Base{two, three}
	check("f", diff.Unknown, "", "older than the record")
	// What was recorded then names no level.
	request.Bases = []mounter.Base{one, base("", now.Add(-time.Minute)), two, three}
	check("f", diff.Unknown, "", "names no level")
	// The list of the old level is not to be had.
	request.Bases = []mounter.Base{one, two, three}
	delete(lists, "one")
	check("f", diff.Unknown, "", `no list of "one"`)
	delete(lists, "three")
	if err := diff.Run(t.Context(), request, nil); err == nil || !strings.Contains(err.Error(), `no list of "three"`) {
		t.Errorf("%v", err)
	}
}

// TestOrigin: overlayfs's note goes before the time; one that is cut short, or of another
// version, is none.
func TestOrigin(t *testing.T) {
	upper := t.TempDir()
	write(t, upper, "f=mine")
	path := filepath.Join(upper, "f")
	raw := make([]byte, 16)
	if _, err := hex.Decode(raw, []byte(strings.ReplaceAll(uuidOf("one"), "-", ""))); err != nil {
		t.Fatal(err)
	}
	note := append([]byte{0, 0xfb, 29, 0, 0x81}, append(raw, make([]byte, 8)...)...)
	if err := unix.Setxattr(path, "trusted.overlay.origin", note, 0); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("needs to be root: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * time.Hour)
	lists := lister{"one": list(t, "f=1"), "two": list(t, "f=2")}
	one, two := base("l@1", past, "one"), base("l@2", past.Add(time.Hour), "two")
	request := diff.Request{Upper: upper, Bases: []mounter.Base{one, two}, Now: two, Open: lists.open}
	if f := run(t, request)["f"]; f.Verdict != diff.Stale || f.By != diff.ByOrigin || f.Base.Layer != "one" {
		t.Errorf("%+v", f)
	}
	request.Bases = []mounter.Base{two}
	if f := run(t, request)["f"]; f.Verdict != diff.Unknown || !strings.Contains(f.Why, uuidOf("one")) {
		t.Errorf("%+v", f)
	}
	for _, bad := range [][]byte{note[:20], append([]byte{1}, note[1:]...), append([]byte{0, 0xfc}, note[2:]...), append(slices.Clone(note), 0)} {
		if err := unix.Setxattr(path, "trusted.overlay.origin", bad, 0); err != nil {
			t.Fatal(err)
		}
		if f := run(t, request)["f"]; f.By != diff.ByBirth {
			t.Errorf("note %x: %+v", bad, f)
		}
	}
}

// TestStop: an error of who is told ends it, and so does the context.
func TestStop(t *testing.T) {
	upper := t.TempDir()
	write(t, upper, "f=mine", "g=mine")
	b := base("l@1", time.Time{}, "one")
	request := diff.Request{Upper: upper, Bases: []mounter.Base{b}, Now: b, Open: lister{"one": list(t, "f=1")}.open}
	stop, calls := errors.New("stop"), 0
	if err := diff.Run(t.Context(), request, func(*diff.Finding) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	request.Open = func(mounter.BaseLayer) (diff.Stream, error) {
		return stream{manifest.NewReader(strings.NewReader("#mtree v2.0\n. type=dir\n"))}, nil
	}
	if err := diff.Run(t.Context(), request, func(*diff.Finding) error { return nil }); !errors.Is(err, manifest.ErrIncomplete) {
		t.Errorf("%v", err)
	}
}

// TestRandom compares the verdicts with those of a plain reckoning in memory.
func TestRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var was, is, mine []string
		want := make(map[string]diff.Verdict)
		for i := range 40 {
			name := fmt.Sprintf("%c%d", 'a'+rnd.IntN(3), i)
			a, b, c := rnd.IntN(3), rnd.IntN(3), rnd.IntN(3) // contents; 0: no such file
			if a > 0 {
				was = append(was, fmt.Sprintf("%s=%d", name, a))
			}
			if b > 0 {
				is = append(is, fmt.Sprintf("%s=%d", name, b))
			}
			if c == 0 {
				continue
			}
			mine = append(mine, fmt.Sprintf("%s=%d", name, c))
			switch {
			case a == 0 && b == 0:
				want[name] = diff.New
			case b == c:
				want[name] = diff.Identical
			case a == b:
				want[name] = diff.Override
			default:
				want[name] = diff.Stale
			}
		}
		upper := t.TempDir()
		write(t, upper, mine...)
		one, two := base("l@1", time.Time{}, "one"), base("l@2", time.Now().Add(time.Hour), "two")
		lists := lister{"one": list(t, was...), "two": list(t, is...)}
		found := run(t, diff.Request{Upper: upper, Bases: []mounter.Base{one, two}, Now: two, Open: lists.open})
		for name, verdict := range want {
			if f := found[name]; f == nil || f.Verdict != verdict {
				t.Errorf("%s: %+v, want %s", name, f, verdict)
			}
		}
		if len(found) != len(want) {
			t.Errorf("%d findings, want %d", len(found), len(want))
		}
	}
}

// BenchmarkRun compares 100,000 private files with two levels of as many, of which half
// have changed: seconds, those of them that the processor was busy, and how much of the
// heap was in use at most.
func BenchmarkRun(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			upper, dir := b.TempDir(), b.TempDir()
			one, err1 := os.Create(filepath.Join(dir, "one"))
			two, err2 := os.Create(filepath.Join(dir, "two"))
			if err := errors.Join(err1, err2); err != nil {
				b.Fatal(err)
			}
			w1, w2 := manifest.NewWriter(one), manifest.NewWriter(two)
			put := func(e *manifest.Entry, content1, content2 string) {
				for w, content := range map[*manifest.Writer]string{w1: content1, w2: content2} {
					if e.Type == manifest.File {
						e.Size, e.Digest = int64(len(content)), digest(content)
					}
					if err := w.Write(e); err != nil {
						b.Fatal(err)
					}
				}
			}
			put(&manifest.Entry{Path: ".", Type: manifest.Dir, Mode: 0o755}, "", "")
			for d := range n / 100 {
				name := fmt.Sprintf("d%05d", d)
				put(&manifest.Entry{Path: name, Type: manifest.Dir, Mode: 0o755}, "", "")
				for f := range 100 {
					file := fmt.Sprintf("%s/f%02d", name, f)
					put(&manifest.Entry{Path: file, Type: manifest.File, Mode: 0o644}, "old", fmt.Sprint(f%2))
					write(b, upper, file+"=m")
				}
			}
			if err := errors.Join(w1.Close(), w2.Close(), one.Close(), two.Close()); err != nil {
				b.Fatal(err)
			}
			open := func(l mounter.BaseLayer) (diff.Stream, error) { return manifest.Open(filepath.Join(dir, l.Name)) }
			request := diff.Request{Upper: upper, Open: open, Now: base("l@2", time.Now().Add(time.Hour), "two"),
				Bases: []mounter.Base{base("l@1", time.Time{}, "one")}}
			var peak uint64
			busy := cpuTime(b)
			for b.Loop() {
				runtime.GC()
				var before, now runtime.MemStats
				runtime.ReadMemStats(&before)
				count := 0
				err := diff.Run(b.Context(), request, func(*diff.Finding) error {
					if count++; count%(n/5) == 0 {
						runtime.GC()
						runtime.ReadMemStats(&now)
						peak = max(peak, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
					}
					return nil
				})
				if err != nil || count < n {
					b.Fatalf("%d findings, %v", count, err)
				}
			}
			b.ReportMetric(float64(peak)/(1<<20), "MiB-heap")
			b.ReportMetric((cpuTime(b)-busy).Seconds()/float64(b.N), "cpu-s/diff")
			b.ReportMetric(float64(b.Elapsed().Seconds())/float64(b.N), "s/diff")
		})
	}
}

// cpuTime is what this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
