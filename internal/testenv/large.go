package testenv

import (
	"fmt"
	"io"
)

// A LargeInventory is one as big sites have it: hosts that refer to profiles, some
// with assignments of their own, in groups of 500; profiles that assign and include;
// components of five levels that share a layer.
type LargeInventory struct{ Hosts, Components, Profiles int }

// LevelsEach is how many levels each component of a [LargeInventory] has.
const LevelsEach = 5

// HostName is the full name of host i.
func (LargeInventory) HostName(i int) string { return fmt.Sprintf("h%06d.example.org", i) }

// ComponentName is the name of component i.
func (LargeInventory) ComponentName(i int) string { return fmt.Sprintf("tool%04d", i) }

// groupSize is how many hosts are in each group.
const groupSize = 500

// WriteLDIF writes the inventory as entries, parents first.
func (l LargeInventory) WriteLDIF(w io.Writer) error {
	var part Inventory
	for i := range l.Components {
		c := Component{Name: l.ComponentName(i), Default: "1"}
		for n := range LevelsEach {
			c.Levels = append(c.Levels, Level{Name: fmt.Sprint(n + 1), Layers: []string{fmt.Sprintf("%s-%d", c.Name, n+1), c.Name + "-common"}})
		}
		part.Components = append(part.Components, c)
		for n := range LevelsEach + 1 {
			name := fmt.Sprintf("%s-%d", c.Name, n)
			if n == 0 {
				name = c.Name + "-common"
			}
			part.Layers = append(part.Layers, Layer{Name: name, FSType: "erofs", Digest: fmt.Sprintf("sha256:%064x", i*10+n+1), Images: []string{name + ".erofs"}})
		}
	}
	for i := range l.Profiles {
		p := Caller{Name: l.profile(i)}
		for n := range 5 {
			p.Assign = append(p.Assign, fmt.Sprintf("%s=%d", l.ComponentName((i*7+n)%l.Components), 2+i%4))
		}
		if i%10 == 9 {
			p.Profiles = []string{l.profile(i - 1)}
		}
		part.Profiles = append(part.Profiles, p)
	}
	if _, err := io.WriteString(w, part.LDIF()); err != nil {
		return err
	}
	for from := 0; from < l.Hosts; from += groupSize {
		var some Inventory
		group := Caller{Name: fmt.Sprintf("g%04d", from/groupSize), Assign: []string{l.ComponentName(from/groupSize%l.Components) + "=3"}}
		for i := from; i < min(from+groupSize, l.Hosts); i++ {
			h := Caller{Name: l.HostName(i), Profiles: []string{l.profile(i % l.Profiles)}}
			if i%10 == 0 {
				h.Assign = []string{l.ComponentName(i%l.Components) + "=4"}
			}
			some.Hosts = append(some.Hosts, h)
			group.Members = append(group.Members, h.Name)
		}
		some.Groups = []Caller{group}
		if _, err := io.WriteString(w, "\n"+some.callers()); err != nil {
			return err
		}
	}
	return nil
}

func (LargeInventory) profile(i int) string { return fmt.Sprintf("p%04d", i) }
