package testenv

import (
	"fmt"
	"strconv"
	"strings"
)

// BaseDN is the suffix of every inventory that [Inventory.LDIF] renders, and of
// every [Slapd].
const BaseDN = slapdBase

// An Inventory is a software inventory in few words. Nothing in it is checked:
// tests of refusals need bad ones.
type Inventory struct {
	Components []Component
	Layers     []Layer
	Profiles   []Caller
	Hosts      []Caller
	Users      []Caller
	Groups     []Caller
}

// A Component and its levels.
type Component struct {
	Name       string
	Default    string // level
	MountPoint string
	Private    string
	XIP        string
	Customize  []string // COMPONENT=NN:LAYER
	OnStale    string
	Levels     []Level
}

// A Level is named without its component: "29.4-1".
type Level struct {
	Name   string
	State  string
	Layers []string // names, topmost first
}

// A Layer as the inventory describes it; see [Store] for making one.
type Layer struct {
	Name, FSType, Digest, UUID string
	Size                       int64
	Images                     []string
	Segments                   []string
	Manifest                   string
	Kind                       string // of a customisation layer
}

// As is the layer as one of a kind.
func (l Layer) As(kind string) Layer {
	l.Kind = kind
	return l
}

// A Caller is a host, a user, a group or a profile.
type Caller struct {
	Name      string
	Assign    []string // COMPONENT=LEVEL
	Customize []string // COMPONENT=NN:LAYER
	Profiles  []string
	Members   []string // groups: names of hosts; a group needs one of these or of the next
	Users     []string // groups: names of users
}

// HostDN is the DN of the host's entry.
func HostDN(name string) string { return "cn=" + name + ",ou=hosts," + BaseDN }

// UserDN is the DN of the user's entry.
func UserDN(name string) string { return "uid=" + name + ",ou=people," + BaseDN }

// GroupDN is the DN of the group's entry.
func GroupDN(name string) string { return "cn=" + name + ",ou=groups," + BaseDN }

// ProfileDN is the DN of the profile's entry.
func ProfileDN(name string) string { return "cn=" + name + ",ou=profiles," + BaseDN }

// ComponentDN is the DN of the component's entry.
func ComponentDN(name string) string { return "cn=" + name + ",ou=components," + BaseDN }

// LevelDN is the DN of the level's entry.
func LevelDN(component, level string) string {
	return "cn=" + component + "@" + level + "," + ComponentDN(component)
}

// LayerDN is the DN of the layer's entry.
func LayerDN(name string) string { return "cn=" + name + ",ou=layers," + BaseDN }

// LDIF renders the inventory as entries, parents first: for [Slapd.Add] as well as
// for a directory of LDIF files.
func (inv Inventory) LDIF() string {
	var w ldifWriter
	w.entry(BaseDN, "objectClass: dcObject", "objectClass: organization", "dc: example", "o: Example")
	for _, ou := range []string{"components", "layers", "profiles", "hosts", "groups"} {
		w.entry("ou="+ou+","+BaseDN, "objectClass: organizationalUnit", "ou: "+ou)
	}
	for _, l := range inv.Layers {
		w.entry(LayerDN(l.Name), "objectClass: levelfsLayer", "cn: "+l.Name)
		w.values("levelfsFSType", l.FSType)
		w.values("levelfsDigest", l.Digest)
		w.values("levelfsUUID", l.UUID)
		w.values("levelfsManifest", l.Manifest)
		w.values("levelfsKind", l.Kind)
		if l.Size != 0 {
			w.values("levelfsSize", strconv.FormatInt(l.Size, 10))
		}
		w.values("levelfsImage", l.Images...)
		w.values("levelfsSegment", l.Segments...)
	}
	for _, c := range inv.Components {
		w.entry(ComponentDN(c.Name), "objectClass: levelfsComponent", "cn: "+c.Name)
		w.values("levelfsDefault", c.Default)
		w.values("levelfsMountPoint", c.MountPoint)
		w.values("levelfsPrivate", c.Private)
		w.values("levelfsXIP", c.XIP)
		w.values("levelfsCustomize", c.Customize...)
		w.values("levelfsOnStale", c.OnStale)
		for _, l := range c.Levels {
			w.entry(LevelDN(c.Name, l.Name), "objectClass: levelfsLevel", "cn: "+c.Name+"@"+l.Name)
			w.values("levelfsState", l.State)
			for i, layer := range l.Layers {
				w.values("levelfsLayerRef", fmt.Sprintf("%02d:%s", i, layer))
			}
		}
	}
	w.WriteString("\n" + inv.callers())
	return w.String()
}

// callers renders the profiles, hosts and groups.
func (inv Inventory) callers() string {
	var w ldifWriter
	for _, p := range inv.Profiles {
		w.entry(ProfileDN(p.Name), "objectClass: levelfsProfile", "cn: "+p.Name)
		w.caller(p)
	}
	for _, h := range inv.Hosts {
		w.entry(HostDN(h.Name), "objectClass: device", "objectClass: levelfsCaller", "cn: "+h.Name)
		w.caller(h)
	}
	if len(inv.Users) > 0 {
		w.entry("ou=people,"+BaseDN, "objectClass: organizationalUnit", "ou: people")
	}
	for _, u := range inv.Users {
		w.entry(UserDN(u.Name), "objectClass: inetOrgPerson", "objectClass: levelfsCaller", "uid: "+u.Name, "cn: "+u.Name, "sn: "+u.Name)
		w.caller(u)
	}
	for _, g := range inv.Groups {
		w.entry(GroupDN(g.Name), "objectClass: groupOfNames", "objectClass: levelfsCaller", "cn: "+g.Name)
		for _, m := range g.Members {
			w.values("member", HostDN(m))
		}
		for _, u := range g.Users {
			w.values("member", UserDN(u))
		}
		w.caller(g)
	}
	return w.String()
}

type ldifWriter struct{ strings.Builder }

func (w *ldifWriter) entry(dn string, lines ...string) {
	if w.Len() > 0 {
		w.WriteString("\n")
	}
	w.WriteString("dn: " + dn + "\n")
	for _, line := range lines {
		w.WriteString(line + "\n")
	}
}

// values writes the attribute's values, empty ones left out.
func (w *ldifWriter) values(attr string, values ...string) {
	for _, v := range values {
		if v != "" {
			w.WriteString(attr + ": " + v + "\n")
		}
	}
}

func (w *ldifWriter) caller(c Caller) {
	w.values("levelfsAssignment", c.Assign...)
	w.values("levelfsCustomize", c.Customize...)
	w.values("levelfsProfileRef", c.Profiles...)
}
