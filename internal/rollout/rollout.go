package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/report"
	"github.com/levelfs/levelfs/ldapmap"
)

// A HostState is how it goes with the level on a host of a ring.
type HostState string

// The states of a host.
const (
	OnLevel   HostState = "on-level"  // it reports that it runs it, or would at the next access
	Pending   HostState = "pending"   // it reports another level
	Silent    HostState = "silent"    // it reports nothing of the component
	Failed    HostState = "failed"    // it reports that it cannot have it, or that it is in a bad way with it
	Elsewhere HostState = "elsewhere" // something else decides about its level
	Later     HostState = "later"     // the ring has not been given the level
)

// A Host is one of a ring.
type Host struct {
	Name   string         `json:"name"`
	State  HostState      `json:"state"`
	Why    string         `json:"why,omitempty"`
	Report *report.Report `json:"report,omitempty"`
}

// A Ring and its hosts.
type Ring struct {
	ldapmap.Ring
	Given bool   `json:"given"` // its profile was given the level
	Hosts []Host `json:"hosts"` // by name
}

// Names are the ring's hosts in one of the states.
func (r Ring) Names(states ...HostState) []string {
	var names []string
	for _, h := range r.Hosts {
		if slices.Contains(states, h.State) {
			names = append(names, h.Name)
		}
	}
	return names
}

// A Status is how a roll-out goes.
type Status struct {
	Component string               `json:"component"`
	Level     string               `json:"level"` // in full
	State     ldapmap.RolloutState `json:"state"`
	Gate      string               `json:"gate"`
	At        string               `json:"at"` // profile of the ring that it is at
	Next      string               `json:"next,omitempty"`
	DN        string               `json:"dn"`
	Source    string               `json:"source"`
	Rings     []Ring               `json:"rings"`
	// Several are the hosts that are in more than one ring, with the profiles.
	Several map[string][]string `json:"several,omitempty"`
	// Problems are why rings could not be looked at, such as a profile that is gone.
	Problems []string `json:"problems,omitempty"`
}

// Reports are what hosts report, by the folded names of the hosts, and of the component.
type Reports map[string]map[string]report.Report

// Read fetches the reports of all hosts. Values that are none are left out: a host speaks
// for itself alone.
func Read(ctx context.Context, stores []ldapmap.Store, progress func(entries int)) (Reports, error) {
	reports := make(Reports)
	terms := []ldapmap.Term{{
		{{Attr: "objectClass", Value: ldapmap.ClassCaller}}, {{Attr: report.Attr, Op: ldapmap.Present}},
	}}
	for _, s := range stores {
		entries, err := s.All(ctx, terms, []string{"objectClass", "cn", report.Attr}, progress)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if ldapmap.IsHost(e) {
				reports.add(e)
			}
		}
	}
	return reports, nil
}

func (r Reports) add(e ldapmap.Entry) {
	for _, name := range e.Attrs["cn"] {
		host := strings.ToLower(name)
		if r[host] == nil {
			r[host] = make(map[string]report.Report)
		}
		for _, v := range e.Attrs[strings.ToLower(report.Attr)] {
			said, err := report.Parse(v)
			if _, known := r[host][said.Component]; err == nil && !known {
				r[host][said.Component] = said
			}
		}
	}
}

// of is what the host reports of the component, under its full name or its short one.
func (r Reports) of(host, component string) *report.Report {
	host = strings.ToLower(host)
	short, _, _ := strings.Cut(host, ".")
	for _, name := range []string{host, short} {
		if said, ok := r[name][component]; ok {
			return &said
		}
	}
	return nil
}

// Look finds out how the roll-out goes.
func Look(ctx context.Context, inv edit.Inventory, f edit.Found, w edit.Where, reports Reports) (*Status, error) {
	s := &Status{Component: f.Level.Component, Level: f.Level.String(), State: f.State, Gate: f.Gate, DN: f.DN,
		Source: inv.Sources()[f.Source].Name()}
	if f.At >= 0 {
		s.At = f.Rings[f.At].Profile
	}
	if f.State == ldapmap.RolloutRunning && f.At+1 < len(f.Rings) {
		s.Next = f.Rings[f.At+1].Profile
	}
	given, problems := inv.Given(f, w)
	for _, err := range problems {
		s.Problems = append(s.Problems, err.Error())
	}
	whole, err := given.Trails(ctx, f.Level.Component)
	if err != nil {
		return nil, err
	}
	now, err := inv.Trails(ctx, f.Level.Component)
	if err != nil {
		return nil, err
	}
	in := make(map[string][]string)
	for i, ring := range f.Rings {
		r := Ring{Ring: ring, Given: i <= f.At, Hosts: []Host{}}
		for n, member := range whole {
			host := member.Caller.Host
			if !speaks(member.Trail, ring.Profile, f.Level.Level) {
				continue
			}
			in[host] = append(in[host], ring.Profile)
			answer := member.Answer
			if r.Given {
				answer = now[n].Answer
			}
			r.Hosts = append(r.Hosts, judge(host, answer, f.Level, r.Given, reports.of(host, f.Level.Component)))
		}
		s.Rings = append(s.Rings, r)
	}
	for host, rings := range in {
		if len(rings) > 1 {
			if s.Several == nil {
				s.Several = make(map[string][]string)
			}
			s.Several[host] = rings
		}
	}
	return s, nil
}

// speaks reports whether a profile gives the level to who has the trail, whatever decides.
func speaks(trail []ldapmap.Rule, profile, level string) bool {
	return slices.ContainsFunc(trail, func(r ldapmap.Rule) bool {
		return len(r.Via) > 0 && strings.EqualFold(r.Via[len(r.Via)-1], profile) && r.Level == level
	})
}

// judge says how it goes with the level on a host.
func judge(name string, answer fleet.Answer, level ldapmap.Key, given bool, said *report.Report) Host {
	h := Host{Name: name, Report: said}
	if said != nil {
		h.Why = strings.TrimSpace(fmt.Sprintf("%s %s %s", said.State, said.Wanted, said.Detail))
	}
	switch full := level.String(); {
	case answer.Err != nil:
		h.State, h.Why = Elsewhere, edit.Why(answer.Err)
	case answer.Level != full:
		h.State, h.Why = Elsewhere, fmt.Sprintf("%s by the %s %s", answer.Level, answer.Rule.Rank, answer.Rule.DN)
	case !given:
		h.State, h.Why = Later, ""
	case said == nil:
		h.State = Silent
	case said.State == report.Failed && said.Wanted == full, said.State == report.Critical && said.Level == full:
		h.State = Failed
	case said.State == report.Idle && said.Wanted == full, said.Level == full && (said.State == report.OK || said.State == report.Warning):
		h.State = OnLevel
	default:
		h.State = Pending
	}
	return h
}
