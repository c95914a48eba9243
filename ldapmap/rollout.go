package ldapmap

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
)

const classRollout = "levelfsRollout"

// A Rollout is a level that is given to one ring of callers after the other. Lookups
// know nothing of it: what it gives to whom is assignments of profiles.
type Rollout struct {
	DN    string `json:"dn"`
	Level Key    `json:"level"`
	Rings []Ring `json:"rings"` // in the order in which they are given the level
	// At is the index of the last ring that was given the level, or is being given it; -1 if
	// none has it any more, as after an abort.
	At    int          `json:"at"`
	Gate  string       `json:"gate"` // GateCheck, or the absolute path of a program
	State RolloutState `json:"state"`
}

// A Ring is a profile, and who runs it.
type Ring struct {
	Number  int    `json:"number"`
	Profile string `json:"profile"`
	Before  string `json:"before,omitempty"` // level that the profile assigned before, or ""
}

// RolloutState says whether a roll-out goes on.
type RolloutState string

// The states of a roll-out.
const (
	RolloutRunning RolloutState = "running"
	RolloutPaused  RolloutState = "paused"
	RolloutAborted RolloutState = "aborted"
	RolloutDone    RolloutState = "done"
)

// GateCheck is the gate that goes by the reports of hosts alone.
const GateCheck = "check"

// Limits of roll-outs.
const maxRings = 32

// IsRollout reports whether the entry is a roll-out.
func IsRollout(e Entry) bool { return e.Is(classRollout) }

// ValidGate reports whether s can be the gate of a roll-out.
func ValidGate(s string) bool {
	return s == GateCheck || strings.HasPrefix(s, "/") && s != "/" && len(s) <= 256 && path.Clean(s) == s && PlainPath(s)
}

const wantRing = "NN:PROFILE, each number and each profile once, and at most 32 of them"

// Rollout decodes a roll-out. Text that does not pass its whitelist is an *InvalidError.
func (e Entry) Rollout() (Rollout, error) {
	r := Rollout{DN: e.DN, Gate: e.First("levelfsgate"), State: RolloutState(strings.ToLower(e.First("levelfsrolloutstate")))}
	if err := e.single("levelfsRolloutLevel", "levelfsRingAt", "levelfsGate", "levelfsRolloutState"); err != nil {
		return r, err
	}
	var err error
	if r.Level, err = ParseKey(e.First("levelfsrolloutlevel")); err != nil || r.Level.Level == "" {
		return r, e.invalid("levelfsRolloutLevel", e.First("levelfsrolloutlevel"), "COMPONENT@LEVEL")
	}
	switch r.State {
	case RolloutRunning, RolloutPaused, RolloutAborted, RolloutDone:
	default:
		return r, e.invalid("levelfsRolloutState", string(r.State), "running, paused, aborted or done")
	}
	if r.Gate == "" {
		r.Gate = GateCheck
	}
	if !ValidGate(r.Gate) {
		return r, e.invalid("levelfsGate", r.Gate, "check, or the absolute path of a program")
	}
	for _, v := range e.Attrs["levelfsring"] {
		n, profile, ok := numbered(v)
		if !ok || !ValidProfile(profile) || len(r.Rings) == maxRings ||
			slices.ContainsFunc(r.Rings, func(o Ring) bool { return o.Number == n || strings.EqualFold(o.Profile, profile) }) {
			return r, e.invalid("levelfsRing", v, wantRing)
		}
		r.Rings = append(r.Rings, Ring{Number: n, Profile: profile})
	}
	if len(r.Rings) == 0 {
		return r, e.invalid("levelfsRing", "", wantRing)
	}
	slices.SortFunc(r.Rings, func(a, b Ring) int { return cmp.Compare(a.Number, b.Number) })
	if at := e.First("levelfsringat"); at == "" && r.State == RolloutAborted {
		r.At = -1
	} else {
		n, err := strconv.Atoi(at)
		if r.At = r.ring(n); err != nil || r.At < 0 {
			return r, e.invalid("levelfsRingAt", at, "the number of a ring")
		}
	}
	known := make(map[int]bool)
	for _, v := range e.Attrs["levelfsringbefore"] {
		n, value, ok := numbered(v)
		i := r.ring(n)
		component, level, assigns := strings.Cut(value, "=")
		if !ok || i < 0 || value != "" && (!assigns || component != r.Level.Component || !validLevel(level)) {
			return r, e.invalid("levelfsRingBefore", v, "NN:COMPONENT=LEVEL, or NN:")
		}
		r.Rings[i].Before = level
		known[i] = true
	}
	for i, ring := range r.Rings[:r.At+1] {
		if !known[i] { // an abort would not know what to restore
			return r, e.invalid("levelfsRingBefore", "", "a value for ring "+strconv.Itoa(ring.Number))
		}
	}
	return r, nil
}

// ring is the index of the ring of that number, -1 if there is none.
func (r Rollout) ring(number int) int {
	return slices.IndexFunc(r.Rings, func(o Ring) bool { return o.Number == number })
}

// numbered reads NN:TEXT.
func numbered(s string) (n int, text string, ok bool) {
	num, text, ok := strings.Cut(s, ":")
	n, err := strconv.Atoi(num)
	return n, text, ok && err == nil && n >= 0 && n < 100
}
