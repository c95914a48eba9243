package lint

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/memsource"
)

// references finds names that nothing has.
func (l *linter) references() {
	for _, e := range l.entries {
		switch {
		case ldapmap.IsComponent(e.Entry):
			l.defaultLevel(e)
		case ldapmap.IsLevel(e.Entry):
			l.levelRefs(e)
		case ldapmap.IsLayer(e.Entry), ldapmap.IsRollout(e.Entry):
		default:
			l.callerRefs(e)
		}
	}
}

func (l *linter) defaultLevel(e entry) {
	c, err := e.Component()
	if err != nil || c.Default == "" {
		return
	}
	if _, ok := l.levels[c.Name+"@"+c.Default]; !ok {
		l.add(finding.NoLevel, e, fmt.Sprintf("the default of %q is %q, and there is no level %q", c.Name, c.Default, c.Name+"@"+c.Default),
			fmt.Sprintf("correct %q", "levelfsDefault: "+c.Default))
	}
}

func (l *linter) levelRefs(e entry) {
	v, err := e.Level()
	if err != nil {
		return
	}
	name, _, _ := strings.Cut(v.Name, "@")
	if _, ok := l.components[name]; !ok {
		l.add(finding.Orphan, e, fmt.Sprintf("level %q is of a component %q that is not there", v.Name, name),
			fmt.Sprintf("add a component with %q, or delete the level", "cn: "+name))
	}
	for _, y := range v.Layers {
		if _, ok := l.layers[y]; !ok {
			l.add(finding.NoLayer, e, fmt.Sprintf("level %q is made of a layer %q that is not there", v.Name, y),
				fmt.Sprintf("levelfs layer build DIRECTORY -o IMAGE --name %s, and add the entry that it prints", y))
		}
		if kind := l.layers[y].Kind; kind != "" && kind != ldapmap.KindVendor {
			l.add(finding.KindInLevel, e, fmt.Sprintf("level %q is made of layer %q, which is of kind %s", v.Name, y, kind),
				fmt.Sprintf("publish the level without %q, and levelfs customize", y))
		}
	}
	if v.Successor == "" {
		return
	}
	if _, ok := l.levels[name+"@"+v.Successor]; !ok {
		l.add(finding.NoSuccessor, e, fmt.Sprintf("the successor of %q is %q, and there is no level %q", v.Name, v.Successor, name+"@"+v.Successor),
			fmt.Sprintf("correct %q", "levelfsSuccessor: "+v.Successor))
	}
}

func (l *linter) callerRefs(e entry) {
	assignments, _ := e.Assignments()
	for _, a := range assignments {
		_, known := l.components[a.Component]
		_, there := l.levels[a.Component+"@"+a.Level]
		value := a.Attr() + ": " + a.String()
		switch {
		case !known:
			l.add(finding.NoComponent, e, fmt.Sprintf("%q is about a component that is not there", value), fmt.Sprintf("correct or delete %q", value))
		case !there:
			l.add(finding.NoLevel, e, fmt.Sprintf("%q names a level that is not there", value), fmt.Sprintf("correct or delete %q", value))
		}
	}
	refs, _ := e.ProfileRefs()
	for _, name := range refs {
		if _, ok := l.profiles[strings.ToLower(name)]; !ok {
			l.add(finding.NoProfile, e, fmt.Sprintf("refers to a profile %q that is not there", name),
				fmt.Sprintf("correct or delete %q", "levelfsProfileRef: "+name))
		}
	}
}

// members finds members of groups with assignments that have no entry. The inventory
// holds hosts and users, and groups may have members of any other kind: only one that
// would lie where hosts or users lie is missed.
func (l *linter) members() {
	there, places := make(map[string]bool, len(l.entries)), make(map[string]bool)
	for _, e := range l.entries {
		dn, err := memsource.NormalDN(e.DN)
		if err != nil {
			continue // a Fleet has none
		}
		there[dn] = true
		if ldapmap.IsHost(e.Entry) || ldapmap.IsUser(e.Entry) {
			places[parent(dn)] = true
		}
	}
	for _, e := range l.entries {
		if !ldapmap.IsCaller(e.Entry) || !speaks(e) {
			continue
		}
		for _, attr := range []string{"member", "uniqueMember"} {
			for _, member := range e.Attrs[strings.ToLower(attr)] {
				if dn, err := memsource.NormalDN(member); err == nil && !there[dn] && places[parent(dn)] {
					l.add(finding.NoMember, e, fmt.Sprintf("member %q is no host or user that is there", member),
						fmt.Sprintf("delete %q", attr+": "+member))
				}
			}
		}
	}
}

// parent is what follows the first RDN of a normalised DN. An escaped comma is written
// as one in hexadecimal or with a backslash before it.
func parent(dn string) string {
	for i := 0; i < len(dn); i++ {
		switch dn[i] {
		case '\\':
			i++
		case ',':
			return dn[i+1:]
		}
	}
	return ""
}

// loops finds profiles that include themselves: each way round once.
func (l *linter) loops() {
	const onPath, done = 1, 2
	state := make(map[string]int)
	var walk func(name string, way []string)
	walk = func(name string, way []string) {
		e, ok := l.profiles[name]
		if !ok || state[name] == done {
			return
		}
		state[name] = onPath
		way = append(way, name)
		refs, _ := e.ProfileRefs()
		for _, ref := range refs {
			next := strings.ToLower(ref)
			if state[next] == onPath {
				round := append(slices.Clone(way[slices.Index(way, next):]), next)
				l.add(finding.Loop, e, "profiles include each other: "+strings.Join(round, " -> "),
					fmt.Sprintf("delete %q", "levelfsProfileRef: "+ref))
				continue
			}
			walk(next, way)
		}
		state[name] = done
	}
	for _, e := range l.entries {
		if ldapmap.IsProfile(e.Entry) {
			walk(strings.ToLower(e.First("cn")), nil)
		}
	}
}

// names finds two entries of one source with the same name.
func (l *linter) names() {
	type id struct{ source, kind, name string }
	first := make(map[id]entry)
	exact := make(map[id]bool)
	for _, e := range l.entries {
		kind, attr := kindOf(e)
		for _, name := range e.Attrs[attr] {
			folded := id{e.source, kind, strings.ToLower(name)}
			as := id{e.source, kind, name}
			other, seen := first[folded]
			same := exact[as]
			exact[as] = true
			if !seen {
				first[folded] = e
				continue
			}
			switch {
			case other.DN == e.DN:
			case kind == "host" || kind == "user":
				if speaks(e) || speaks(other) {
					l.add(finding.TwoCallers, e, fmt.Sprintf("%s %q has another entry, %q", kind, name, other.DN),
						"delete the entry, or what it assigns")
				}
			case same || kind == "profile":
				l.add(finding.Duplicate, e, fmt.Sprintf("%s %q has another entry, %q", kind, name, other.DN), "rename or delete the entry")
			default:
				l.add(finding.SameButCase, e, fmt.Sprintf("%s %q differs by case only from %q", kind, name, other.DN), "rename or delete the entry")
			}
		}
	}
}

// kindOf is what the entry is, and by which attribute it is named.
func kindOf(e entry) (kind, attr string) {
	switch {
	case ldapmap.IsComponent(e.Entry):
		return "component", "cn"
	case ldapmap.IsLevel(e.Entry):
		return "level", "cn"
	case ldapmap.IsLayer(e.Entry):
		return "layer", "cn"
	case ldapmap.IsProfile(e.Entry):
		return "profile", "cn"
	case ldapmap.IsHost(e.Entry):
		return "host", "cn"
	case ldapmap.IsUser(e.Entry):
		return "user", "uid"
	}
	return "", ""
}

// places finds mount points that stand in each other's way.
func (l *linter) places() {
	at := make(map[string]component)
	var order []component
	for _, e := range l.entries {
		if !ldapmap.IsComponent(e.Entry) {
			continue
		}
		c, err := e.Component()
		if err != nil || l.components[c.Name].DN != e.DN || l.components[c.Name].source != e.source {
			continue
		}
		if c.Name == "by-user" {
			l.add(finding.Reserved, e, `"by-user" is where the users' trees are, and no component`, "rename the component")
		}
		if c.MountPoint != "" {
			order = append(order, component{e, c})
		}
	}
	for _, c := range order {
		fix := fmt.Sprintf("correct %q", "levelfsMountPoint: "+c.MountPoint)
		if other, taken := at[c.MountPoint]; taken {
			l.add(finding.SamePlace, c.entry, fmt.Sprintf("%q and %q have the same mount point %q", other.Name, c.Name, c.MountPoint), fix)
			continue
		}
		at[c.MountPoint] = c
		if tree := l.options.Tree; tree != "" && (within(c.MountPoint, tree) || within(tree, c.MountPoint)) {
			l.add(finding.InTree, c.entry, fmt.Sprintf("the mount point %q of %q and the shared tree %q lie within each other", c.MountPoint, c.Name, tree), fix)
		}
	}
	for _, c := range order {
		for dir := path.Dir(c.MountPoint); dir != "/"; dir = path.Dir(dir) {
			if other, ok := at[dir]; ok {
				l.add(finding.SamePlace, c.entry, fmt.Sprintf("the mount point %q of %q lies within %q of %q", c.MountPoint, c.Name, dir, other.Name),
					fmt.Sprintf("correct %q", "levelfsMountPoint: "+c.MountPoint))
			}
		}
	}
}

// within reports whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
