package mounter

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// old is a mounted view of the component of request.
func old(p *Private) *View {
	v := &View{
		ID: 41, Parent: 30, Target: "/sw/emacs", Name: "emacs@28.2-1", Major: 0, Minor: 66,
		Options: []string{"rw", "nosuid", "nodev", "noatime", "rw", "redirect_dir=nofollow"},
	}
	switch {
	case p == nil:
		v.ReadOnly = true
	case p.Ephemeral:
		v.Upper, v.Work = "/run/levelfs/layers/upper", "/run/levelfs/layers/work"
	default:
		v.Upper, v.Work = p.upper(), p.work()
	}
	return v
}

func replacing(p *Private, layers ...Layer) Request {
	r := request(p, layers...)
	r.Replaces = old(p)
	r.Flags = r.Replaces.Flags()
	return r
}

func TestBuildReplaces(t *testing.T) {
	t.Parallel()
	ephemeral := replacing(&Private{Ephemeral: true}, erofs("a", "1"))
	ephemeral.Discard = true
	second := replacing(kept(), erofs("a", "1"))
	second.Replaces.Work = kept().otherWork()
	for _, c := range []struct {
		name, ops, work, lock string
		request               Request
	}{
		{"persistent", "lock replaces check stage mount private freeze record overlay unstage replace",
			kept().otherWork(), kept().lock(), replacing(kept(), erofs("a", "1"))},
		{"once more", "lock replaces check stage mount private freeze record overlay unstage replace",
			kept().work(), kept().lock(), second},
		{"ephemeral", "lock replaces check stage mount private freeze overlay unstage replace",
			"/run/levelfs/layers/work", "/run/levelfs/switch.lock", ephemeral},
		{"read-only", "lock replaces check stage mount empty overlay unstage replace",
			"", "/run/levelfs/switch.lock", replacing(nil, erofs("a", "1"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := Build(c.request)
			if err != nil {
				t.Fatal(err)
			}
			if p.ops() != c.ops {
				t.Errorf("steps %s, want %s", p.ops(), c.ops)
			}
			if p.Private != nil && p.work() != c.work {
				t.Errorf("work directory %s, want %s", p.work(), c.work)
			}
			if p.lock() != c.lock || p.Steps[0].Target != c.lock {
				t.Errorf("lock %s, %s, want %s", p.lock(), p.Steps[0].Target, c.lock)
			}
			if !slices.Contains(p.Flags, "nosuid") || !slices.Contains(p.Flags, "noatime") {
				t.Errorf("flags %q", p.Flags)
			}
			if shown := p.Shows(*c.request.Replaces); shown {
				t.Error("another level, and nothing to do?")
			}
		})
	}
}

func TestBuildRefusesToReplace(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(r *Request){
		"cannot take the place of emacs@28.2-1 at \"/sw/emacs\"": func(r *Request) { r.Target = "/sw/other" },
		"cannot take the place of vi@1":                          func(r *Request) { r.Replaces.Name = "vi@1" },
		"was interrupted":                                        func(r *Request) { r.Replaces.ReadOnly, r.Replaces.Frozen = true, true },
		"was remounted read-only":                                func(r *Request) { r.Replaces.ReadOnly = true },
		"has another private layer":                              func(r *Request) { r.Private = nil },
		"has another private layer ":                             func(r *Request) { r.Replaces.Upper = "/elsewhere/upper" },
		"has another private layer than":                         func(r *Request) { r.Private = &Private{Ephemeral: true} },
		"has another private layer than it":                      func(r *Request) { r.Replaces.Upper = "" },
	} {
		r := replacing(kept(), erofs("a", "1"))
		change(&r)
		_, err := Build(r)
		var refused *PlanError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	var loss *LossError
	if _, err := Build(replacing(&Private{Ephemeral: true}, erofs("a", "1"))); !errors.As(err, &loss) {
		t.Errorf("in memory: %v", err)
	}
}

// TestInterruptions: what mountinfo and the lock file say together.
func TestInterruptions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lock  string // content; "-": no file
		views func(v View) []View
		want  string // targets and what covers
	}{
		"nothing":                           {"-", func(v View) []View { return []View{v} }, ""},
		"frozen, and the lock file says so": {use{bootID(), 66, 66, 1}.String(), frozen, "frozen"},
		"the new one is dead":               {use{bootID(), 70, 66, 1}.String(), frozen, "frozen"},
		"frozen, and nothing is known":      {"", frozen, "frozen"},
		"without a lock file":               {"-", frozen, "frozen"},
		"replaced, and elsewhere":           {use{boot: bootID(), dev: 70}.String(), frozen, ""},
		"read-only since the mount":         {use{boot: bootID(), dev: 66}.String(), frozen, ""},
		"of another boot":                   {use{strings.Repeat("0", 36), 66, 66, 1}.String(), frozen, ""},
		"the new one beneath": {use{bootID(), 70, 66, 1}.String(), func(v View) []View {
			under := v
			under.ID, under.Minor, under.Name = 50, 70, "emacs@29.4-1"
			v.Parent, v.ReadOnly, v.Frozen = 50, true, true
			return []View{v, under}
		}, "emacs@29.4-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &Private{Dir: t.TempDir()}
			if c.lock != "-" {
				if err := os.WriteFile(p.lock(), []byte(c.lock), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := ""
			for _, i := range Interruptions("/run/levelfs", c.views(*old(p))) {
				if got += "frozen"; i.Covered != nil {
					got = i.Covered.Name
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			// One that is under way is none.
			if c.lock == "-" {
				return
			}
			f, err := lockFile(t.Context(), p.lock())
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if i := Interruptions("/run/levelfs", c.views(*old(p))); i != nil {
				t.Errorf("while the lock is held: %v", i)
			}
		})
	}
}

func frozen(v View) []View {
	v.ReadOnly, v.Frozen = true, true
	return []View{v}
}

// TestHistory: the levels in their order, whatever a crash or a failure has left.
func TestHistory(t *testing.T) {
	t.Parallel()
	p := &Private{Dir: t.TempDir()}
	want := func(levels ...string) {
		t.Helper()
		periods, err := History(p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, one := range periods {
			got = append(got, one.Level)
		}
		if !slices.Equal(got, levels) {
			t.Errorf("got %q, want %q", got, levels)
		}
	}
	write := func(level string, at int64) {
		t.Helper()
		if err := writeDurably(p.level(), "level "+level+"\nlayer a - -\n"); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p.level(), time.Time{}, time.Unix(at, 5)); err != nil {
			t.Fatal(err)
		}
	}
	keep := func() {
		t.Helper()
		if err := p.keepRecord(); err != nil {
			t.Fatal(err)
		}
	}
	want()
	write("e@1", 1)
	want("e@1")
	keep()
	want("e@1") // noted, and then not changed
	keep()
	write("e@2", 2)
	want("e@1", "e@2")
	keep()
	write("e@1", 3)
	want("e@1", "e@2", "e@1")
	if err := p.restoreRecord(); err != nil { // the change failed
		t.Fatal(err)
	}
	want("e@1", "e@2")
	keep()
	write("e@3", 4)
	want("e@1", "e@2", "e@3")
	text, err := os.ReadFile(p.history())
	if err != nil {
		t.Fatal(err)
	}
	for n := range text { // cut by a crash, and then used again
		if err := os.WriteFile(p.history(), text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		keep()
		periods, err := History(p.Dir)
		if err != nil || len(periods) == 0 || periods[len(periods)-1].Level != "e@3" || len(periods) > 3 {
			t.Errorf("cut to %q: %v, %v", text[:n], periods, err)
		}
	}
	if err := os.Remove(filepath.Join(p.Dir, "level")); err != nil {
		t.Fatal(err)
	}
}
