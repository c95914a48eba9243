package check

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/mounter"
)

// Judge returns what is wrong with the machine, critical findings first. It touches
// nothing.
func Judge(s *State) []finding.Finding {
	j := &judge{State: s}
	j.views()
	j.table()
	j.wants()
	j.images()
	j.inPlace()
	j.segments()
	j.private()
	j.noWrites()
	j.servers()
	j.clocks()
	j.rights()
	j.autofs()
	finding.Sort(j.findings)
	return slices.Compact(j.findings)
}

type judge struct {
	*State
	findings []finding.Finding
}

func (j *judge) add(code finding.Code, object, fix, format string, args ...any) {
	if code.Mending().Repair != finding.Manual {
		fix += " (or levelfs repair " + string(code) + ")"
	}
	j.byHand(code, object, fix, format, args...)
}

// byHand adds a finding that levelfs repair does not mend, though it does others of its code.
func (j *judge) byHand(code finding.Code, object, fix, format string, args ...any) {
	j.findings = append(j.findings, finding.New(code, "", Printable(object), Printable(fmt.Sprintf(format, args...)), Printable(fix)))
}

// Printable replaces what would move a terminal's cursor or begin another line: names of
// mount points and of directories may contain anything.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// want is the inventory's answer for the asker; ok is false if there is none.
func (j *judge) want(who Asker) (Want, bool) {
	i := slices.IndexFunc(j.Wants, func(w Want) bool { return w.Asker == who })
	if i < 0 {
		return Want{}, false
	}
	return j.Wants[i], true
}

func (j *judge) views() {
	for _, v := range j.Views {
		i := slices.IndexFunc(j.Views, func(under View) bool { return under.ID == v.Parent && under.Target == v.Target })
		if i >= 0 {
			j.add(finding.StackedViews, v.Target, v.change(), "%s is mounted on top of %s", v.Name, j.Views[i].Name)
		}
		if w, ok := j.want(v.Asker); ok && w.differs(v) {
			since := "since an unknown time"
			if !v.Since.IsZero() {
				since = "since " + v.Since.Format(time.RFC3339)
			}
			text, fix := fmt.Sprintf("%s is wanted, and %s is mounted %s", w.Level, v.Name, since), v.change()
			if w.Level == v.Name {
				text = fmt.Sprintf("%s is wanted and mounted, but customised otherwise: above it %s wanted, and %s mounted %s",
					v.Name, areLayers(w.Above), areLayers(v.Above()), since)
			}
			if len(v.Holders) > 0 {
				text += ", in use by process " + Numbers(v.Holders)
			}
			j.add(finding.OtherLevel, v.Target, fix, "%s", text)
		}
		for _, option := range j.unsafe(v.View) {
			j.add(finding.UnsafeOptions, v.Target, "umount "+v.Target, "%s is mounted with %s", v.Name, option)
		}
		if v.Upper != "" && !within(v.Upper, j.Config.PrivateDir()) && !within(v.Upper, j.Config.RunDir()) {
			j.add(finding.ForeignUpper, v.Target, "umount "+v.Target, "%s writes to %q", v.Name, v.Upper)
		}
		if v.Upper != "" && j.superReadOnly(v.View) {
			add := j.add
			if !v.Frozen { // no switch leaves it so
				add = j.byHand
			}
			add(finding.ReadOnlyPrivate, v.Target, v.change(), "%s has the private layer %q, and is read-only", v.Name, v.Upper)
		}
	}
}

// areLayers says which layers there are, with the verb.
func areLayers(contents []string) string {
	switch len(contents) {
	case 0:
		return "nothing is"
	case 1:
		return contents[0] + " is"
	}
	return strings.Join(contents, ", ") + " are"
}

// change is the command that gives the view the wanted level, and puts right what one
// that was killed has left.
func (v View) change() string {
	switch {
	case v.Level != "": // it is read-only, and has the level that it is named after
		return "umount " + v.Target
	case v.User != "":
		return "levelfs switch " + v.Component + " --user " + v.User
	}
	return "levelfs switch " + v.Component
}

// Numbers lists some of the processes, and says how many more there are.
func Numbers(pids []int) string {
	const some = 8
	var text []string
	for _, pid := range pids[:min(some, len(pids))] {
		text = append(text, strconv.Itoa(pid))
	}
	list := strings.Join(text, ", ")
	if more := len(pids) - some; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// superReadOnly reports whether a view's file system is read-only.
func (j *judge) superReadOnly(v mounter.View) bool {
	return slices.ContainsFunc(j.Mounts, func(m Mount) bool {
		return m.Major == v.Major && m.Minor == v.Minor && m.SuperReadOnly
	})
}

// unsafe are the view's options that it must not have. Where overlayfs shows none, its
// module parameters say what is in force.
func (j *judge) unsafe(v mounter.View) []string {
	wanted := map[string]string{"index": "off", "metacopy": "off", "redirect_dir": "nofollow", "xino": "off", "nfs_export": "off"}
	inForce := make(map[string]string)
	for name := range wanted {
		if value, known := j.Defaults[name]; known {
			inForce[name] = value
		}
	}
	var bad []string
	nodev := false
	for _, option := range v.Options {
		name, value, _ := strings.Cut(option, "=")
		if _, ours := wanted[name]; ours {
			inForce[name] = value
		}
		nodev = nodev || option == "nodev"
		if option == "volatile" || option == "userxattr" || name == "datadir" || name == "datadir+" {
			bad = append(bad, option)
		}
	}
	if !nodev {
		bad = append(bad, "dev")
	}
	for name, value := range inForce {
		if value != wanted[name] && !(name == "redirect_dir" && value == "off") {
			bad = append(bad, name+"="+value)
		}
	}
	slices.Sort(bad)
	return bad
}

func within(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }

// table looks at what is mounted where it should not be.
func (j *judge) table() {
	views := make(map[string]string) // of all components: target -> name
	for _, m := range j.Mounts {
		if name, ok := strings.CutPrefix(m.Source, mounter.SourcePrefix); ok && m.FSType == "overlay" {
			views[m.Target] = name
		}
	}
	about := func(name string) bool {
		component, _, _ := strings.Cut(name, "@")
		return j.about(component, name)
	}
	for _, m := range j.Mounts {
		for dir := filepath.Dir(m.Target); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if name, ok := views[dir]; ok && about(name) {
				j.add(finding.MountInView, m.Target, "umount "+m.Target, "%s (%s) is mounted below the view %s", m.Source, m.FSType, name)
				break
			}
		}
		_, ours := strings.CutPrefix(m.Source, mounter.SourcePrefix)
		ours = ours && m.FSType == "overlay"
		if within(m.Target, j.Config.Tree) && m.FSType != "autofs" && !ours && len(j.Keys) == 0 {
			j.add(finding.Stranger, m.Target, "umount "+m.Target, "%s (%s) is mounted in the tree", m.Source, m.FSType)
		}
	}
}

// object names what an asker asked for.
func (a Asker) object() string {
	name := a.Component
	if a.Level != "" {
		name += "@" + a.Level
	}
	if a.User != "" {
		name = a.User + ": " + name
	}
	return name
}

func (j *judge) wants() {
	for _, w := range j.Wants {
		plan := "levelfs plan " + w.Component
		if w.User != "" {
			plan += " --user " + w.User
		}
		if w.Err != nil {
			j.add(finding.NoMoreLevel, w.object(), plan, "%s", oneLine(w.Err))
		}
		if w.Missing != nil {
			j.add(finding.MissingImage, w.object(), plan, "%s: %s", w.Level, oneLine(w.Missing))
		}
	}
}

// oneLine joins the lines of joined errors.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (j *judge) images() {
	for _, i := range j.Images {
		if i.Err != nil {
			j.add(finding.OtherImage, i.Layer.File(), "copy the image again", "level %s: %s", i.Level, oneLine(i.Err))
		}
	}
	for _, l := range j.Lists {
		j.add(finding.OtherList, l.Path, "copy the list again", "level %s: %s", l.Level, oneLine(l.Err))
	}
}

func (j *judge) inPlace() {
	for _, v := range j.Views {
		w, _ := j.want(v.Asker)
		required := slices.ContainsFunc(w.Layers, func(l mounter.Layer) bool { return l.XIP == mounter.XIPRequire })
		code := finding.XIPOff
		if required {
			code = finding.NoXIP
		}
		fix := "levelfs doctor"
		if v.Proof != nil && v.Proof.State() != mounter.Active {
			j.byHand(code, v.Target, fix, "%s: execution in place is %s", v.Name, *v.Proof)
		}
		if w.differs(v) {
			continue // its layers are others
		}
		for _, l := range w.Layers {
			if l.FSType == "dir" || j.inMemory(v, l) {
				continue
			}
			switch {
			case l.XIP == mounter.XIPRequire:
				j.add(finding.NoXIP, v.Target, fix, "%s: layer %s is mounted from its image file, and execution in place is required", v.Name, l.Name)
			case l.XIP != mounter.XIPOff:
				if d, there := j.reachable(l); there {
					j.add(finding.XIPOff, v.Target, "umount "+v.Target, "%s: layer %s is mounted from its image file, and could be executed from %s", v.Name, l.Name, d)
				}
			}
		}
	}
}

// inMemory reports whether the view has the layer from shared memory.
func (j *judge) inMemory(v View, l mounter.Layer) bool {
	return slices.ContainsFunc(v.Layers, func(mounted string) bool {
		return strings.HasPrefix(mounted, l.Name+"@") && mounter.InSharedMemory(mounted)
	})
}

// reachable is the first of the layer's devices that is there now: a segment that is not
// attached may not exist, and one that is attached in another combination cannot be had.
func (j *judge) reachable(l mounter.Layer) (mounter.Device, bool) {
	i := slices.IndexFunc(l.Devices, func(d mounter.Device) bool {
		return d.Kind == mounter.Pmem || slices.Contains(j.Attached, d.Name)
	})
	if i < 0 {
		return mounter.Device{}, false
	}
	return l.Devices[i], true
}

// segments finds those that no view uses. In a view's line the national characters of
// names are left out, as they would need quoting.
func (j *judge) segments() {
	plain := strings.NewReplacer("$", "_", "#", "_", "@", "_")
	for _, name := range j.Segments {
		suffix := "+" + string(mounter.Segment) + "." + plain.Replace(name)
		used := slices.ContainsFunc(j.Views, func(v View) bool {
			return slices.ContainsFunc(v.Layers, func(l string) bool { return strings.HasSuffix(l, suffix) })
		})
		if !used {
			j.add(finding.UnusedSegment, name, "levelfs gc", "segment %s is attached, and no view uses it", name)
		}
	}
}

func (j *judge) private() {
	for _, p := range j.Private {
		fix := "move " + p.Dir + " away"
		if p.NoComponent {
			j.add(finding.PrivateOfNone, p.Dir, fix, "the inventory has no component %q", p.Component)
		}
		if p.NoAccount {
			j.add(finding.PrivateOfNobody, p.Dir, fix, "user %q has no account on this machine", p.User)
		}
		if p.Stale != nil {
			what := slices.Clone(p.Stale.Paths)
			if more := p.Stale.Files - len(what); more > 0 {
				what = append(what, fmt.Sprintf("and %d more", more))
			}
			j.add(finding.StalePrivate, p.Dir, p.diff(), "private files that %s has overtaken: %s", p.Stale.Level, strings.Join(what, ", "))
		}
		for _, name := range p.Unfinished {
			path := filepath.Join(p.Dir, name)
			j.add(finding.Unfinished, path, "mount the view once, or delete "+path, "a mount was interrupted")
		}
	}
}

func (j *judge) noWrites() {
	for _, target := range j.NoWrites {
		j.add(finding.NoWrites, target, "mount -o remount,rw "+target, "private layers are on it, and it is read-only")
	}
}

func (j *judge) servers() {
	if j.Down.Since.IsZero() {
		return
	}
	add := j.add
	if slices.ContainsFunc(j.Unchecked, func(u Unchecked) bool { return u.What == WhatInventory }) { // they are still down
		add = j.byHand
	}
	add(finding.ServersDown, "inventory", "levelfs doctor", "no server answered at %s: %s", j.Down.Since.Format(time.RFC3339), oneLine(errors.New(j.Down.Why)))
	keep := j.Config.Keep.Duration
	if left := keep - j.Now.Sub(j.Down.Oldest); !j.Down.Oldest.IsZero() && left < keep/4 {
		add(finding.OldAnswers, j.Down.Answer, "levelfs doctor", "the last answer is of %s, and holds until %s",
			j.Down.Oldest.Format(time.RFC3339), j.Down.Oldest.Add(keep).Format(time.RFC3339))
	}
}

// maxAhead is how much later than now a server may have written something. Clocks that are
// kept by NTP differ by far less.
const maxAhead = time.Minute

func (j *judge) clocks() {
	for _, c := range j.Clocks {
		if ahead := c.Written.Sub(j.Now); ahead > maxAhead {
			j.add(finding.ClockAhead, c.Source, "chronyc tracking", "it has written something at %s, %v from now: one of the two clocks is wrong",
				c.Written.UTC().Format(time.RFC3339), ahead.Round(time.Second))
		}
	}
}

func (j *judge) rights() {
	for _, p := range j.Perms {
		code, forbidden, mode := finding.OpenConfig, uint32(0o022), "go-w"
		switch p.What {
		case PermPrivate:
			code, forbidden, mode = finding.OpenPrivate, 0o077, "700"
		case PermCache:
			code, forbidden, mode = finding.OpenCache, 0o077, "700"
		case PermSecret:
			code, forbidden, mode = finding.OpenSecret, 0o077, "600"
		}
		if p.Mode&forbidden != 0 || p.Owner != 0 && p.Owner != p.Self {
			j.add(code, p.Path, fmt.Sprintf("chown root %s && chmod %s %s", p.Path, mode, p.Path), "mode %04o, owner uid %d", p.Mode, p.Owner)
		}
	}
	for _, r := range j.Refused {
		j.add(finding.OpenHook, r.Path, r.Remedy, "%s", r.Why)
	}
}

func (j *judge) autofs() {
	for _, p := range j.Hung {
		j.add(finding.HungMap, p.Object(), fmt.Sprintf("kill -9 %d", p.PID), "a child of automount has not run its program for %v", p.Age.Round(time.Second))
	}
	a := j.Autofs
	if a == nil {
		return
	}
	for _, program := range a.Programs {
		j.add(finding.NoMapProgram, program, "install it, or correct "+a.Map, "%s names a program that cannot be run", a.Map)
	}
	if !a.Included {
		j.add(finding.NotIncluded, a.Master, "echo +dir:/etc/auto.master.d >> "+a.Master, "%s is not read: there is no line +dir:/etc/auto.master.d", a.Map)
	}
	if a.Helper == "" {
		j.add(finding.NoHelper, "mount.levelfs", "install it as /sbin/mount.levelfs", "mount(8) does not find it")
	}
	if a.Tree && !a.Served {
		j.add(finding.NotServed, j.Config.Tree, "systemctl restart autofs", "%s has it, and no autofs is mounted there", a.Map)
	}
}
