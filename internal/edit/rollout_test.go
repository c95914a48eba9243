package edit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
)

// ringed is an inventory with three rings, of which the last assigns nothing yet.
func ringed(t *testing.T) Inventory {
	inv := small()
	inv.Profiles = append(inv.Profiles, testenv.Caller{Name: "canary", Assign: []string{"emacs=1", "vi=1"}},
		testenv.Caller{Name: "early", Assign: []string{"emacs=1"}}, testenv.Caller{Name: "all"})
	return load(t, inv.LDIF())
}

// does makes the steps of an intention, and describes them.
func does(t *testing.T, inv *Inventory, i Intention) string {
	t.Helper()
	steps, err := i.Steps(*inv)
	if err != nil {
		t.Fatalf("%+v: %v", i, err)
	}
	return perform(t, inv, steps)
}

func perform(t *testing.T, inv *Inventory, steps []Step) string {
	t.Helper()
	for _, s := range steps {
		var err error
		if *inv, err = inv.With(s); err != nil {
			t.Fatal(err)
		}
	}
	return describe(steps)
}

func wantSteps(t *testing.T, what, got string, want ...string) {
	t.Helper()
	if text := strings.Join(want, "\n"); strings.TrimSpace(got) != text {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, text)
	}
}

// assigns is what a profile assigns of emacs.
func assigns(t *testing.T, inv Inventory, profile string) string {
	t.Helper()
	r, err := inv.rung(profile, "emacs", Where{})
	if err != nil {
		t.Fatal(err)
	}
	return r.level
}

func wantRings(t *testing.T, inv Inventory, state ldapmap.RolloutState, levels string) {
	t.Helper()
	f, err := inv.Rollout("emacs")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%q %q %q", assigns(t, inv, "canary"), assigns(t, inv, "early"), assigns(t, inv, "all"))
	if f.State != state || got != levels {
		t.Errorf("%s with %s, want %s with %s", f.State, got, state, levels)
	}
}

func start(level string, profiles ...string) Start {
	return Start{Key: key("emacs@" + level), Profiles: profiles, Gate: ldapmap.GateCheck}
}

func TestRollout(t *testing.T) {
	t.Parallel()
	inv := ringed(t)
	wantSteps(t, "start", does(t, &inv, start("2", "canary", "early", "all")),
		`new 0 cn=rollout rollout-start - emacs=2,ring=canary: +objectClass=levelfsRollout +cn=rollout +RolloutLevel=emacs@2 +Ring=00:canary|01:early|02:all +RingAt=0 +RingBefore=00:emacs=1 +Gate=check +RolloutState=running`,
		`0 cn=canary assign emacs=1 emacs=2: -Assignment=emacs=1 +Assignment=emacs=2`)
	wantRings(t, inv, "running", `"2" "1" ""`)
	wantSteps(t, "start again", does(t, &inv, start("2", "canary", "early", "all")))
	wantSteps(t, "promote", does(t, &inv, Promote{Component: "emacs"}),
		`0 cn=rollout rollout-promote ring=canary emacs=2,ring=early: -RingAt=0 +RingAt=1 +RingBefore=01:emacs=1`,
		`0 cn=early assign emacs=1 emacs=2: -Assignment=emacs=1 +Assignment=emacs=2`)
	wantSteps(t, "promote into the last", does(t, &inv, Promote{Component: "emacs"}),
		`0 cn=rollout rollout-promote ring=early emacs=2,ring=all: -RingAt=1 +RingAt=2 +RingBefore=02:`,
		`0 cn=all assign - emacs=2: +Assignment=emacs=2`)
	wantRings(t, inv, "running", `"2" "2" "2"`)
	done := inv
	wantSteps(t, "finish", does(t, &done, Promote{Component: "emacs"}),
		`0 cn=rollout rollout-finish - emacs=2: -RolloutState=running +RolloutState=done`)
	wantSteps(t, "abort", does(t, &inv, Abort{Component: "emacs"}),
		`0 cn=rollout rollout-abort emacs=2 -: -RolloutState=running +RolloutState=aborted`,
		`0 cn=all unassign emacs=2 -: -Assignment=emacs=2`,
		`0 cn=early assign emacs=2 emacs=1: -Assignment=emacs=2 +Assignment=emacs=1`,
		`0 cn=canary assign emacs=2 emacs=1: -Assignment=emacs=2 +Assignment=emacs=1`)
	wantRings(t, inv, "aborted", `"1" "1" ""`)
	wantSteps(t, "abort again", does(t, &inv, Abort{Component: "emacs"}),
		`0 cn=rollout rollout-restored emacs=2 -: -RingAt=2`)
	wantSteps(t, "and again", does(t, &inv, Abort{Component: "emacs"}))
	// What is assigned now is no remainder of it.
	later := inv
	does(t, &later, Assign{Caller: caller("profile:canary"), Levels: []ldapmap.Key{key("emacs@2")}})
	wantSteps(t, "abort of what is over", does(t, &later, Abort{Component: "emacs"}))
	does(t, &later, start("1", "canary", "early"))

	// Another one in its place, with fewer rings; the history stays.
	wantSteps(t, "another", does(t, &inv, start("1", "early", "canary")),
		`0 cn=rollout rollout-start - emacs=1,ring=early: -RolloutLevel=emacs@2 +RolloutLevel=emacs@1 -Ring=00:canary|01:early|02:all +Ring=00:early|01:canary +RingAt=0 -RingBefore=01:emacs=1|02: -RolloutState=aborted +RolloutState=running`)
	f, err := inv.Rollout("emacs")
	if err != nil || len(Records(f.Entry)) != 6 {
		t.Errorf("%v, %v", Records(f.Entry), err)
	}
	verbs := make(map[string]int)
	for _, e := range History(inv.Fleet, key("emacs@2")) {
		verbs[e.Verb]++
	}
	if verbs[VerbStart] != 1 || verbs[VerbPromote] != 2 || verbs[VerbAbort] != 1 || verbs[VerbAssign] < 3 {
		t.Errorf("the level's history has %v", verbs)
	}
}

// TestRolloutInterrupted: whichever step of a verb was the last that was made, the same
// verb makes the rest, and nothing else.
func TestRolloutInterrupted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before []Intention
		wanted Intention
	}{
		"start":                 {nil, start("2", "canary", "early", "all")},
		"promote":               {[]Intention{start("2", "canary", "early", "all")}, Promote{Component: "emacs"}},
		"promote into the last": {[]Intention{start("2", "canary", "early", "all"), Promote{Component: "emacs"}}, Promote{Component: "emacs"}},
		"abort":                 {[]Intention{start("2", "canary", "early", "all"), Promote{Component: "emacs"}, Promote{Component: "emacs"}}, Abort{Component: "emacs"}},
		"abort of a paused one": {[]Intention{start("2", "canary", "early", "all"), Pause{Component: "emacs"}}, Abort{Component: "emacs"}},
	} {
		inv := ringed(t)
		for _, i := range c.before {
			does(t, &inv, i)
		}
		steps, err := c.wanted.Steps(inv)
		if err != nil || len(steps) < 2 {
			t.Fatalf("%s: %d steps, %v", name, len(steps), err)
		}
		whole := inv
		perform(t, &whole, steps)
		want := everything(whole)
		for made := 1; made < len(steps); made++ {
			part := inv
			perform(t, &part, steps[:made])
			if p, ok := c.wanted.(Promote); ok {
				if yes, err := p.Interrupted(part); !yes || err != nil {
					t.Errorf("%s after %d steps: interrupted %v, %v", name, made, yes, err)
				}
			}
			if _, ok := c.wanted.(Abort); ok {
				var unfinished *UnfinishedError
				if _, err := start("2", "canary").Steps(part); !errors.As(err, &unfinished) {
					t.Errorf("%s after %d steps: another is started: %v", name, made, err)
				}
				var state *RolloutStateError
				if _, err := (Promote{Component: "emacs"}).Steps(part); !errors.As(err, &state) {
					t.Errorf("%s after %d steps: promoted: %v", name, made, err)
				}
			}
			does(t, &part, c.wanted)
			if got := everything(part); got != want {
				t.Errorf("%s after %d steps and once more:\n%s\nwant\n%s", name, made, got, want)
			}
		}
		if p, ok := c.wanted.(Promote); ok {
			if yes, err := p.Interrupted(whole); yes || err != nil {
				t.Errorf("%s as a whole: interrupted %v, %v", name, yes, err)
			}
		}
	}
}

// everything is the inventory but for its records.
func everything(inv Inventory) string {
	var lines []string
	for _, h := range inv.search(func(ldapmap.Entry) bool { return true }) {
		for attr, values := range h.entry.Attrs {
			if attr != "levelfshistory" {
				lines = append(lines, fmt.Sprintf("%s %s %q", h.entry.DN, attr, slices.Sorted(slices.Values(values))))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRolloutRefused(t *testing.T) {
	t.Parallel()
	fresh := ringed(t)
	started, paused, done := fresh, fresh, fresh
	does(t, &started, start("2", "canary", "early"))
	does(t, &paused, start("2", "canary", "early"))
	does(t, &paused, Pause{Component: "emacs"})
	wantSteps(t, "paused twice", does(t, &paused, Pause{Component: "emacs"}))
	does(t, &done, start("2", "canary"))
	does(t, &done, Promote{Component: "emacs"})
	resumed := paused
	does(t, &resumed, Pause{Component: "emacs", Resume: true})
	does(t, &resumed, Promote{Component: "emacs"})
	elsewhere := started
	does(t, &elsewhere, Assign{Caller: caller("profile:canary"), Levels: []ldapmap.Key{key("emacs@3")}})
	mandatory := fresh
	does(t, &mandatory, Assign{Caller: caller("profile:early"), Levels: []ldapmap.Key{key("emacs@3")}, Mandatory: true})
	for name, c := range map[string]struct {
		inv    Inventory
		wanted Intention
		says   string
	}{
		"no level":               {fresh, start("9", "canary"), `"emacs@9"`},
		"no component":           {fresh, Start{Key: key("none@1"), Profiles: []string{"canary"}}, `"none"`},
		"no profile":             {fresh, start("2", "canary", "nosuch"), `"nosuch"`},
		"no ring":                {fresh, start("2"), "at least one"},
		"a ring twice":           {fresh, start("2", "canary", "Canary"), "two rings"},
		"a retired level":        {fresh, start("0", "canary"), "is retired"},
		"a test level for all":   {fresh, start("3", "canary"), "the last ring"},
		"mandatory":              {mandatory, start("2", "canary", "early"), "as mandatory"},
		"another one":            {started, start("2", "early"), "is running: it cannot be replaced"},
		"another one, paused":    {paused, start("2", "canary", "early"), "is paused: it cannot be replaced"},
		"promote of none":        {fresh, Promote{Component: "emacs"}, `no roll-out of component "emacs"`},
		"promote, paused":        {paused, Promote{Component: "emacs"}, "is paused: it cannot be promoted"},
		"promote, done":          {done, Promote{Component: "emacs"}, "is done: it cannot be promoted"},
		"abort, done":            {done, Abort{Component: "emacs"}, "is done: it cannot be aborted"},
		"pause, done":            {done, Pause{Component: "emacs"}, "is done: it cannot be paused"},
		"resume, done":           {done, Pause{Component: "emacs", Resume: true}, "is done: it cannot be resumed"},
		"promote, changed":       {elsewhere, Promote{Component: "emacs"}, "somebody has changed it"},
		"a test level, and last": {fresh, start("3", "canary", "early"), ""},
	} {
		steps, err := c.wanted.Steps(c.inv)
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			perform(t, &c.inv, steps)
			_, err = Promote{Component: "emacs"}.Steps(c.inv)
			c.says = "the last ring"
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}

	// What somebody has assigned in the meantime stays, and is named.
	others, err := Abort{Component: "emacs"}.Others(elsewhere)
	if err != nil || len(others) != 1 || !strings.Contains(others[0].Error(), `profile "canary" assigns emacs=3`) {
		t.Errorf("%v, %v", others, err)
	}
	does(t, &elsewhere, Abort{Component: "emacs"})
	if got := assigns(t, elsewhere, "canary"); got != "3" {
		t.Errorf("canary assigns %q", got)
	}
}

func TestRolloutDecode(t *testing.T) {
	t.Parallel()
	good := map[string][]string{
		"objectclass": {"levelfsRollout"}, "levelfsrolloutlevel": {"emacs@2"}, "levelfsring": {"05:all", "00:canary"}, "levelfsringat": {"5"},
		"levelfsringbefore": {"00:emacs=1", "05:"}, "levelfsgate": {"/usr/libexec/gate"}, "levelfsrolloutstate": {"Paused"},
	}
	e := ldapmap.Entry{DN: "cn=x", Attrs: good}
	r, err := e.Rollout()
	if err != nil || r.At != 1 || r.Rings[0].Profile != "canary" || r.Rings[0].Before != "1" || r.Rings[1].Before != "" || r.State != "paused" {
		t.Errorf("%+v, %v", r, err)
	}
	for attr, values := range map[string][][]string{
		"levelfsrolloutlevel": {{}, {"emacs"}, {"../x@1"}},
		"levelfsring":         {{}, {"canary"}, {"00:a/b"}, {"00:a", "00:b"}, {"00:a", "01:A"}, {"-1:a"}},
		"levelfsringat":       {{}, {"1"}, {"x"}, {"0", "5"}},
		"levelfsringbefore":   {{"00:emacs=1"}, {"00:vi=1", "05:"}, {"00:emacs=../1", "05:"}, {"00:x", "05:"}, {"07:", "00:", "05:"}},
		"levelfsgate":         {{"gate"}, {"/"}, {"/x y"}, {"/a/../b"}, {"/$(x)"}},
		"levelfsrolloutstate": {{}, {"waiting"}},
	} {
		for _, v := range values {
			attrs := make(map[string][]string)
			for name, values := range good {
				attrs[name] = values
			}
			attrs[attr] = v
			e := ldapmap.Entry{DN: "cn=x", Attrs: attrs}
			if r, err := e.Rollout(); err == nil {
				t.Errorf("%s %q: %+v", attr, v, r)
			}
		}
	}
}
