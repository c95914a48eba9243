package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/manifest"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// An injection makes a fault for real on a machine that was healthy.
type injection struct {
	// finds are the findings that it makes, each CODE OBJECT. ROOT stands for the machine's root,
	// BASE for the base of its inventory, and {name} for what injecting it says.
	finds []string
	// manual are those of finds that repair says it cannot mend. A kind that it never mends
	// needs no mention.
	manual []string
	// prepare makes what is healthy before; nil: nothing is needed.
	prepare func(w *faulty)
	inject  func(w *faulty)
}

// injections have at least one for every code in the table of findings. A new code needs one.
func injections() []injection {
	return slices.Concat(inventoryFaults(), viewFaults(), fileFaults(), machineFaults())
}

// TestInjectionsAreComplete: no kind of finding is without a fault that shows it.
func TestInjectionsAreComplete(t *testing.T) {
	shown := make(map[string]int)
	for _, f := range injections() {
		for _, find := range f.finds {
			code, _, _ := strings.Cut(find, " ")
			shown[code]++
		}
	}
	for _, k := range finding.Kinds() {
		if shown[string(k.Code)] == 0 {
			t.Errorf("%s (%s): no fault in injections shows it", k.Code, k.Title)
		}
		delete(shown, string(k.Code))
	}
	if len(shown) > 0 {
		t.Errorf("faults of unknown codes: %v", shown)
	}
}

// A faulty machine has a healthy one's files, an inventory that is put together of parts,
// and views by hand.
type faulty struct {
	*rig
	one, two testenv.Layer     // of all levels 1 and 2
	assigned map[string]string // to the host: component -> level
	parts    map[string]string // of the inventory, by file
	autofs   []string          // lines of levelfs.autofs
	sources  string            // more of levelfs.toml
	names    map[string]string // for {name} in finds
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	w := &faulty{rig: newRig(t), assigned: make(map[string]string), parts: make(map[string]string), names: make(map[string]string)}
	w.one = w.Store.Erofs("one", testenv.Files{"level": "1", "dir/file": "1"})
	w.two = w.Store.Erofs("two", testenv.Files{"level": "2", "dir/file": "2"})
	w.parts["layers"] = layerEntry(w.one) + layerEntry(w.two)
	w.parts["tool"] = componentEntry("tool") + levelEntry("tool", "1", []testenv.Layer{w.one}) + levelEntry("tool", "2", []testenv.Layer{w.two})
	for _, dir := range []string{"etc/auto.master.d", "sbin", "usr/libexec/levelfs"} {
		w.Mkdir(dir)
	}
	w.write(w.Path("etc/auto.master"), "+dir:/etc/auto.master.d\n")
	w.autofs = []string{"/other  program:" + w.Map}
	if err := os.Symlink(w.Helper, w.Path("sbin/mount.levelfs")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mounts, err := testenv.Mounts(w.Root)
		if err != nil {
			t.Error(err)
		}
		for _, m := range slices.Backward(mounts) {
			if err := unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW); err != nil {
				t.Errorf("umount %s: %v", m.Mountpoint, err)
			}
		}
		w.wantNoLoops()
	})
	return w
}

// save writes the configuration and the inventory.
func (w *faulty) save() {
	w.t.Helper()
	host := []string{"objectClass: device", "objectClass: levelfsCaller"}
	for component, level := range w.assigned {
		host = append(host, "levelfsAssignment: "+component+"="+level)
	}
	slices.Sort(host)
	text := testenv.Inventory{}.LDIF() + entry("cn=lnx01,ou=hosts,BASE", host...)
	for _, part := range w.parts {
		text += part
	}
	w.WriteLDIF("all.ldif", strings.ReplaceAll(strings.ReplaceAll(text, "BASE", testenv.BaseDN), "ROOT", w.Root))
	w.Configure(fmt.Sprintf("tree = %q\n[[source]]\ntype = \"ldif\"\npath = %q\n%s", w.Path("sw"), w.InventoryDir(), w.sources))
	w.write(w.Path("etc/auto.master.d/levelfs.autofs"), strings.Join(w.autofs, "\n")+"\n")
}

// component adds one with levels 1 and 2, of which the host is to run the first.
func (w *faulty) component(name string, more ...string) {
	w.parts[name] = componentEntry(name, more...) + levelEntry(name, "1", []testenv.Layer{w.one}) + levelEntry(name, "2", []testenv.Layer{w.two})
	w.assigned[name] = "1"
}

// target is where the component's view is.
func (w *faulty) target(name string) string { return w.Path("sw", name) }

// view mounts the component's view and writes a private file in it.
func (w *faulty) view(name string) {
	w.t.Helper()
	w.save()
	w.mountAt(name, w.Mkdir("sw", name))
	w.write(filepath.Join(w.target(name), "mine"), "private file of "+name)
}

// mounted prepares a component that has a view.
func mounted(name string) func(*faulty) {
	return func(w *faulty) {
		w.component(name)
		w.view(name)
	}
}

func (w *faulty) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// resolve is what a fault's finds say of this machine.
func (w *faulty) resolve(find string) string {
	find = strings.ReplaceAll(strings.ReplaceAll(find, "BASE", testenv.BaseDN), "ROOT", w.Root)
	for name, value := range w.names {
		find = strings.ReplaceAll(find, "{"+name+"}", value)
	}
	return find
}

// entry is one of LDIF.
func entry(dn string, lines ...string) string {
	rdn, _, _ := strings.Cut(dn, ",")
	return "\ndn: " + dn + "\n" + strings.Replace(rdn, "=", ": ", 1) + "\n" + strings.Join(lines, "\n") + "\n"
}

func layerEntry(l testenv.Layer, more ...string) string {
	lines := append([]string{"objectClass: levelfsLayer", "levelfsFSType: " + l.FSType}, more...)
	for attr, values := range map[string][]string{"levelfsDigest": {l.Digest}, "levelfsUUID": {l.UUID}, "levelfsImage": l.Images, "levelfsSegment": l.Segments} {
		for _, v := range values {
			if v != "" {
				lines = append(lines, attr+": "+v)
			}
		}
	}
	if l.Size != 0 {
		lines = append(lines, fmt.Sprintf("levelfsSize: %d", l.Size))
	}
	return entry("cn="+l.Name+",ou=layers,BASE", lines...)
}

func componentEntry(name string, more ...string) string {
	return entry("cn="+name+",ou=components,BASE", append([]string{"objectClass: levelfsComponent"}, more...)...)
}

// levelEntry is a level that is released and sealed.
func levelEntry(component, level string, layers []testenv.Layer, more ...string) string {
	var sealed []ldapmap.Layer
	for _, l := range layers {
		sealed = append(sealed, ldapmap.Layer{Name: l.Name, FSType: l.FSType, Digest: l.Digest})
	}
	return levelOf(component, level, layers, append(more, "levelfsSeal: "+ldapmap.Seal(component+"@"+level, sealed))...)
}

func levelOf(component, level string, layers []testenv.Layer, more ...string) string {
	lines := append([]string{"objectClass: levelfsLevel"}, more...)
	for i, l := range layers {
		lines = append(lines, fmt.Sprintf("levelfsLayerRef: %02d:%s", i, l.Name))
	}
	return entry("cn="+component+"@"+level+",cn="+component+",ou=components,BASE", lines...)
}

func hostEntry(name string, lines ...string) string {
	return entry("cn="+name+",ou=hosts,BASE", append([]string{"objectClass: device", "objectClass: levelfsCaller"}, lines...)...)
}

func groupEntry(name string, lines ...string) string {
	return entry("cn="+name+",ou=groups,BASE", append([]string{"objectClass: groupOfNames", "objectClass: levelfsCaller"}, lines...)...)
}

func profileEntry(name string, lines ...string) string {
	return entry("cn="+name+",ou=profiles,BASE", append([]string{"objectClass: levelfsProfile"}, lines...)...)
}

// layerOf is a layer that is nowhere, with a digest of its own.
func layerOf(name string) testenv.Layer {
	return testenv.Layer{Name: name, FSType: "erofs", Digest: "sha256:" + fmt.Sprintf("%064x", name), Images: []string{name + ".erofs"}}
}

// inSegment is a layer in a segment of 2 MiB at a page.
func inSegment(name, segment, pages string, more ...string) string {
	l := layerOf(name)
	l.Images, l.Segments, l.Size = nil, []string{segment}, 2<<20
	return layerEntry(l, append(more, "levelfsRange: "+segment+":"+pages)...)
}

// inventoryFaults are LDIF texts. None has to do with the machine that looks at them.
func inventoryFaults() []injection {
	one := testenv.Layer{Name: "one"} // of which a level that is not sealed needs only the name
	named := func(layers ...string) (found []testenv.Layer) {
		for _, name := range layers {
			found = append(found, layerOf(name))
		}
		return found
	}
	draft := "levelfsState: draft"
	deep := hostEntry("h122", "levelfsProfileRef: deep0")
	for i := range 10 {
		next := fmt.Sprintf("levelfsProfileRef: deep%d", i+1)
		if i == 9 {
			next = "levelfsAssignment: tool=1"
		}
		deep += profileEntry(fmt.Sprintf("deep%d", i), next)
	}
	nowhere := layerOf("l140")
	nowhere.Images = nil
	directory := testenv.Layer{Name: "l141", FSType: "dir", Images: []string{"l141"}}
	same := layerOf("a142")
	same.Name = "b142"
	segment := func(name string) string {
		l := layerOf(name)
		l.Images, l.Segments = nil, []string{"SEG150"}
		return layerEntry(l)
	}
	released := func(component string) string {
		return componentEntry(component) + layerEntry(layerOf("l"+component)) + levelEntry(component, "1", named("l"+component)) + levelEntry(component, "2", named("l"+component))
	}
	// A roll-out of level 1 that its only ring has.
	rollout := func(component, ring string) string {
		return entry("cn=rollout,cn="+component+",ou=components,BASE", "objectClass: levelfsRollout", "levelfsRolloutLevel: "+component+"@1",
			"levelfsRolloutState: running", "levelfsRing: 00:"+ring, "levelfsRingAt: 0", "levelfsRingBefore: 00:"+component+"=2")
	}
	above := func(name, kind string) string {
		return layerEntry(testenv.Layer{Name: name, FSType: "dir", Images: []string{name}}, "levelfsKind: "+kind)
	}
	level := func(component string) string { return "cn=" + component + "@1,cn=" + component + ",ou=components,BASE" }
	var all []injection
	for _, f := range []struct{ find, text string }{
		{"LV101 cn=h101,ou=hosts,BASE", hostEntry("h101", "levelfsAssignment: nothing=1")},
		{"LV102 cn=h102,ou=hosts,BASE", hostEntry("h102", "levelfsAssignment: tool=9")},
		{"LV102 cn=c102,ou=components,BASE", componentEntry("c102", "levelfsDefault: 3")},
		{"LV103 cn=h103,ou=hosts,BASE", hostEntry("h103", "levelfsProfileRef: none")},
		{"LV104 " + level("c104"), componentEntry("c104") + levelOf("c104", "1", named("gone"), draft)},
		{"LV105 " + level("c105"), componentEntry("c105") + levelOf("c105", "1", []testenv.Layer{one}, draft, "levelfsSuccessor: 3")},
		{"LV106 " + level("c106"), levelOf("c106", "1", []testenv.Layer{one}, draft)},
		{"LV107 cn=g107,ou=groups,BASE", hostEntry("h107") + groupEntry("g107", "member: cn=h107,ou=hosts,BASE", "member: cn=gone,ou=hosts,BASE", "levelfsAssignment: tool=1")},
		{"LV110 cn=c110,ou=components,BASE", componentEntry("c110", "levelfsDefault: a b")},
		{"LV110 cn=h110,ou=hosts,BASE", hostEntry("h110", "levelfsAssignment: tool")},
		{"LV111 cn=c111,ou=layers,BASE", componentEntry("c111") + entry("cn=c111,ou=layers,BASE", "objectClass: levelfsComponent")},
		{"LV112 cn=C112,ou=layers,BASE", componentEntry("c112") + entry("cn=C112,ou=layers,BASE", "objectClass: levelfsComponent")},
		{"LV113 cn=H113,ou=groups,BASE", hostEntry("h113", "levelfsAssignment: tool=1") + entry("cn=H113,ou=groups,BASE", "objectClass: device", "objectClass: levelfsCaller")},
		{"LV114 cn=h114,ou=hosts,BASE", hostEntry("h114", "levelfsAssignment: tool=1", "levelfsAssignement: tool=2")},
		{"LV120 cn=h120,ou=hosts,BASE", hostEntry("h120", "levelfsAssignment: tool=1", "levelfsAssignment: tool=2")},
		{"LV121 cn=p121,ou=profiles,BASE", hostEntry("h121", "levelfsProfileRef: p121") + profileEntry("p121", "levelfsProfileRef: p121")},
		{"LV122 host:h122", deep},
		{"LV130 " + level("c130"), componentEntry("c130") + levelOf("c130", "1", []testenv.Layer{one}, "levelfsState: retired") + hostEntry("h130", "levelfsAssignment: c130=1")},
		{"LV131 " + level("c131"), componentEntry("c131") + levelOf("c131", "1", []testenv.Layer{one}, "levelfsState: test", "levelfsNotAfter: 20200101000000Z") + hostEntry("h131", "levelfsAssignment: c131=1")},
		{"LV132 " + level("c132"), componentEntry("c132") + levelOf("c132", "1", []testenv.Layer{one}, "levelfsState: test", "levelfsNotBefore: 21200101000000Z") + hostEntry("h132", "levelfsAssignment: c132=1")},
		{"LV133 " + level("c133"), componentEntry("c133") + levelOf("c133", "1", []testenv.Layer{one}, draft) + hostEntry("h133") + groupEntry("g133", "member: cn=h133,ou=hosts,BASE", "levelfsAssignment: c133=1")},
		{"LV140 cn=l140,ou=layers,BASE", layerEntry(nowhere)},
		{"LV141 " + level("c141"), componentEntry("c141") + layerEntry(directory) + levelEntry("c141", "1", []testenv.Layer{directory})},
		{"LV142 cn=b142,ou=layers,BASE", layerEntry(layerOf("a142")) + layerEntry(same)},
		{"LV150 cn=b150,ou=layers,BASE", segment("a150") + segment("b150")},
		{"LV151 cn=b151,ou=layers,BASE", inSegment("a151", "SA151", "20000-201FF") + inSegment("b151", "SB151", "20000-201FF") +
			componentEntry("c151") + levelEntry("c151", "1", named("a151")) + componentEntry("d151") + levelEntry("d151", "1", named("b151")) +
			hostEntry("h151", "levelfsAssignment: c151=1", "levelfsAssignment: d151=1")},
		{"LV152 cn=b152,ou=layers,BASE", inSegment("a152", "SA152", "30000-301FF") + inSegment("b152", "SB152", "30000-301FF")},
		{"LV153 cn=l153,ou=layers,BASE", inSegment("l153", "S153", "40000-401FF", "levelfsRange: S153X:1-2")},
		{"LV154 cn=l154,ou=layers,BASE", strings.Replace(inSegment("l154", "S154", "50000-501FF"), "2097152", "2097153", 1)},
		{"LV155 cn=l155,ou=layers,BASE", inSegment("l155", "S155", "60100-602FF")},
		{"LV156 cn=l156,ou=layers,BASE", strings.Replace(inSegment("l156", "S156", "70000-701FF", "levelfsRange: T156:70400-705FF"), "levelfsSegment: S156", "levelfsSegment: S156:T156", 1)},
		{"LV160 " + level("c160"), componentEntry("c160") + levelOf("c160", "1", []testenv.Layer{one}, "levelfsSeal: sha256:"+strings.Repeat("0", 64))},
		{"LV161 " + level("c161"), componentEntry("c161") + levelOf("c161", "1", []testenv.Layer{one}, "levelfsState: released")},
		{"LV170 cn=g170,ou=groups,BASE", groupEntry("g170", "member: cn=x,ou=devices,BASE", "levelfsAssignment: tool=1")},
		{"LV171 cn=p171,ou=profiles,BASE", profileEntry("p171", "levelfsAssignment: tool=1")},
		{"LV172 cn=g172,ou=groups,BASE", hostEntry("h172", "levelfsAssignment: tool=2") + groupEntry("g172", "member: cn=h172,ou=hosts,BASE", "levelfsAssignment: tool=1")},
		{"LV173 cn=h173,ou=hosts,BASE", hostEntry("h173", "levelfsAssignment: tool=1", "levelfsCustomize: tool=20:none")},
		{"LV174 cn=h174,ou=hosts,BASE", above("l174", "group") + hostEntry("h174", "levelfsAssignment: tool=1", "levelfsCustomize: tool=20:l174")},
		{"LV175 " + level("c175"), above("l175", "site") + componentEntry("c175", "levelfsCustomize: c175=50:l175") + levelOf("c175", "1", named("l175"), draft)},
		{"LV176 cn=g176,ou=groups,BASE", above("a176", "group") + above("b176", "group") + hostEntry("h176", "levelfsAssignment: tool=1") +
			groupEntry("g176", "member: cn=h176,ou=hosts,BASE", "levelfsCustomize: tool=10:a176", "levelfsCustomize: tool=10:b176")},
		{"LV177 cn=l177,ou=layers,BASE", above("l177", "group")},
		{"LV180 cn=d180,ou=components,BASE", componentEntry("c180", "levelfsMountPoint: /opt/c180") + componentEntry("d180", "levelfsMountPoint: /opt/c180")},
		{"LV181 cn=by-user,ou=components,BASE", componentEntry("by-user")},
		{"LV182 cn=c182,ou=components,BASE", componentEntry("c182", "levelfsMountPoint: ROOT/sw/c182")},
		{"LV183 cn=rollout,cn=c183,ou=components,BASE", released("c183") + rollout("c183", "nosuch")},
		{"LV184 cn=rollout,cn=c184,ou=components,BASE", released("c184") + rollout("c184", "p184") +
			profileEntry("p184", "levelfsAssignment: c184=2") + hostEntry("h184", "levelfsProfileRef: p184")},
	} {
		all = append(all, injection{finds: []string{f.find}, inject: func(w *faulty) { w.parts[f.find] = f.text }})
	}
	return all
}

// viewFaults are faults of what is mounted, and of what is to be.
func viewFaults() []injection {
	return []injection{
		{finds: []string{"LV201 ROOT/sw/m201"}, prepare: mounted("m201"), inject: func(w *faulty) { w.assigned["m201"] = "2" }},
		{finds: []string{"LV201 ROOT/sw/open201"}, manual: nil, prepare: mounted("open201"), inject: func(w *faulty) {
			// Read by a program, which does not stand in the way.
			w.start("sh", "-c", `exec 5<"$1"; `+untilEOF, "sh", filepath.Join(w.target("open201"), "level"))
			w.assigned["open201"] = "2"
		}},
		{finds: []string{"LV202 m202"}, prepare: mounted("m202"), inject: func(w *faulty) { delete(w.assigned, "m202") }},
		{finds: []string{"LV203 ROOT/sw/m203"}, inject: func(w *faulty) {
			w.must(unix.Mount("tmpfs", w.Mkdir("sw/m203"), "tmpfs", 0, ""))
		}},
		{finds: []string{"LV203 ROOT/sw/full203"}, manual: []string{"LV203 ROOT/sw/full203"}, inject: func(w *faulty) {
			w.must(unix.Mount("tmpfs", w.Mkdir("sw/full203"), "tmpfs", 0, ""))
			w.write(w.Path("sw/full203/file"), "only here")
		}},
		{finds: []string{"LV204 ROOT/sw/m204"}, prepare: mounted("m204"), inject: func(w *faulty) {
			w.must(unix.Mount("", w.target("m204"), "", unix.MS_REMOUNT|unix.MS_BIND, "")) // without nodev
		}},
		{finds: []string{"LV205 ROOT/sw/m205"}, prepare: func(w *faulty) { w.component("m205") }, inject: func(w *faulty) {
			options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off,metacopy=off,redirect_dir=nofollow,xino=off,nfs_export=off",
				w.Mkdir("x/lower"), w.Mkdir("x/upper"), w.Mkdir("x/work"))
			w.must(unix.Mount("levelfs:m205@1", w.Mkdir("sw/m205"), "overlay", unix.MS_NODEV, options))
			w.write(w.Path("sw/m205/file"), "written elsewhere")
		}},
		{finds: []string{"LV206 ROOT/sw/m206"}, manual: []string{"LV206 ROOT/sw/m206"}, prepare: mounted("m206"), inject: func(w *faulty) {
			w.must(unix.Mount("", w.target("m206"), "", unix.MS_REMOUNT|unix.MS_NODEV|unix.MS_RDONLY, ""))
		}},
		// Killed before the new view is attached, and before the old one is detached.
		{finds: []string{"LV206 ROOT/sw/frozen206"}, prepare: mounted("frozen206"), inject: func(w *faulty) { w.killSwitch("frozen206", false) }},
		{finds: []string{"LV206 ROOT/sw/m207", "LV207 ROOT/sw/m207", "LV201 ROOT/sw/m207"}, prepare: mounted("m207"), inject: func(w *faulty) { w.killSwitch("m207", true) }},
		{finds: []string{"LV207 ROOT/sw/hand207"}, prepare: mounted("hand207"), inject: func(w *faulty) {
			w.must(unix.Mount("levelfs:hand207@1", w.target("hand207"), "overlay", unix.MS_RDONLY|unix.MS_NODEV,
				"lowerdir="+w.Mkdir("x/a")+":"+w.Mkdir("x/b")+",index=off,metacopy=off,redirect_dir=nofollow,xino=off,nfs_export=off"))
		}},
		{finds: []string{"LV208 ROOT/sw/m208/dir", "LV203 ROOT/sw/m208/dir"}, prepare: mounted("m208"), inject: func(w *faulty) {
			w.must(unix.Mount("tmpfs", filepath.Join(w.target("m208"), "dir"), "tmpfs", 0, ""))
		}},
		{finds: []string{"LV210 m210"}, prepare: func(w *faulty) { w.ownLayer("m210", "l210") }, inject: func(w *faulty) {
			w.must(os.Remove(filepath.Join(w.Store.Dir, "l210.erofs")))
		}},
		{finds: []string{"LV211 ROOT/var/lib/levelfs/images/l211.erofs"}, prepare: func(w *faulty) { w.ownLayer("m211", "l211") }, inject: func(w *faulty) {
			w.must(os.Truncate(filepath.Join(w.Store.Dir, "l211.erofs"), 2048))
		}},
		{finds: []string{"LV214 ROOT/var/lib/levelfs/images/l214.erofs.mtree"}, prepare: func(w *faulty) {
			w.ownLayer("m214", "l214")
			list := filepath.Join(w.Store.Dir, "l214.erofs.mtree")
			f, err := os.Create(list)
			w.must(err)
			w.must(errors.Join(manifest.Make(w.t.Context(), w.Mkdir("l214"), f), f.Close()))
			digest, err := manifest.Digest(w.t.Context(), list)
			w.must(err)
			w.parts["m214"] = strings.Replace(w.parts["m214"], "levelfsFSType: erofs", "levelfsFSType: erofs\nlevelfsManifest: "+digest, 1)
		}, inject: func(w *faulty) {
			w.must(os.Truncate(filepath.Join(w.Store.Dir, "l214.erofs.mtree"), 20))
		}},
		{finds: []string{"LV212 ROOT/sw/m212", "LV210 m212"}, prepare: mounted("m212"), inject: func(w *faulty) { w.component("m212", "levelfsXIP: require") }},
		// The segment came after the view, which has the layer from its file.
		{finds: []string{"LV213 ROOT/sw/m213", "LV220 SEG213"}, prepare: func(w *faulty) {
			w.ownLayer("m213", "l213")
			w.view("m213")
		}, inject: func(w *faulty) {
			w.attach("SEG213")
			w.parts["m213"] = strings.Replace(w.parts["m213"], "levelfsFSType: erofs", "levelfsFSType: erofs\nlevelfsSegment: SEG213", 1)
		}},
		{finds: []string{"LV220 SEG220"}, inject: func(w *faulty) { w.attach("SEG220") }},
	}
}

// ownLayer adds a component whose only level has a layer of its own.
func (w *faulty) ownLayer(component, layer string) {
	w.t.Helper()
	l := w.Store.Erofs(layer, testenv.Files{"level": "1"})
	w.parts[component] = componentEntry(component) + layerEntry(l) + levelEntry(component, "1", []testenv.Layer{l})
	w.assigned[component] = "1"
}

// attach makes a segment that levelfs has attached.
func (w *faulty) attach(segment string) {
	w.t.Helper()
	w.must(testenv.PlugSegments(w.Root, segment))
	writeFile(w.t, w.Path("sys/devices/dcssblk/remove"), "")
	// As a mount leaves it that was killed while the driver was at it.
	writeFile(w.t, filepath.Join(w.Mkdir("run/levelfs/segments"), segment), "")
}

// killSwitch kills a switch to level 2 when the old view is read-only, before or after the
// new one is attached beneath it.
func (w *faulty) killSwitch(component string, attached bool) {
	w.t.Helper()
	w.save()
	at := killPoint{unix.SYS_MOVE_MOUNT, 1} // attaches the new view; the next call detaches the old one
	if attached {
		at = killPoint{unix.SYS_UMOUNT2, 1}
	}
	if killed := traceKill(w.t, at, w.Env(), w.Levelfs, "switch", component, "--to", "2"); !killed.killed {
		w.t.Fatalf("a switch without %v: exit %d", at, killed.exit)
	}
	views, err := mounter.Views()
	w.must(err)
	if !slices.ContainsFunc(mounter.Interruptions(w.Path("run/levelfs"), views), func(i mounter.Interruption) bool {
		return i.View.Target == w.target(component) && (i.Covered != nil) == attached
	}) {
		w.t.Fatalf("a switch killed before %v has left nothing", at)
	}
	if attached {
		w.assigned[component] = "2" // what is left when it is healed
	}
}

// fileFaults are faults of private layers, and of the rights of files.
func fileFaults() []injection {
	mode := func(path string, bad os.FileMode) func(*faulty) {
		return func(w *faulty) { w.must(os.Chmod(w.Path(path), bad)) }
	}
	layer := func(w *faulty, elem ...string) {
		dir := w.Mkdir(append([]string{"var/lib/levelfs/private"}, elem...)...)
		w.must(os.MkdirAll(filepath.Join(dir, "upper/dir"), 0o755))
		w.write(filepath.Join(dir, "upper/dir/mine"), "private file in "+filepath.Join(elem...))
		w.write(filepath.Join(dir, "level"), "level old@1\nlayer old - -\n")
	}
	old := func(w *faulty, path string) {
		then := time.Now().Add(-time.Hour)
		w.must(os.Chtimes(path, then, then))
	}
	return []injection{
		{finds: []string{"LV230 ROOT/var/lib/levelfs/private/host/old230"}, inject: func(w *faulty) { layer(w, "host/old230") }},
		{finds: []string{"LV230 ROOT/var/lib/levelfs/private/user/root/old230"}, inject: func(w *faulty) { layer(w, "user/root/old230") }},
		{finds: []string{"LV231 ROOT/var/lib/levelfs/private/user/nobody-here/tool"}, inject: func(w *faulty) { layer(w, "user/nobody-here/tool") }},
		{finds: []string{"LV230 ROOT/var/lib/levelfs/private/user/gone-too/old", "LV231 ROOT/var/lib/levelfs/private/user/gone-too/old"},
			inject: func(w *faulty) { layer(w, "user/gone-too/old") }},
		{finds: []string{"LV232 ROOT/var/lib/levelfs/private/host/tool/upper.new"}, inject: func(w *faulty) {
			old(w, w.Mkdir("var/lib/levelfs/private/host/tool/upper.new"))
		}},
		{finds: []string{"LV232 ROOT/var/lib/levelfs/private/host/m232/level.new"}, prepare: mounted("m232"), inject: func(w *faulty) {
			path := filepath.Join(w.PrivateDir("m232"), "level.new")
			w.write(path, "level m232@2\n")
			old(w, path)
		}},
		{finds: []string{"LV233 ROOT/var/lib/levelfs/private/host/m233"}, prepare: mounted("m233"), inject: func(w *faulty) {
			w.write(filepath.Join(w.target("m233"), "level"), "private")
			w.assigned["m233"] = "2"
			w.save()
			if got := w.RunLevelfs("switch", "m233"); got.Exit != 0 {
				w.t.Fatal(got)
			}
		}},
		{finds: []string{"LV250 ROOT/etc/levelfs/levelfs.toml"}, inject: mode("etc/levelfs/levelfs.toml", 0o664)},
		{finds: []string{"LV251 ROOT/var/lib/levelfs/private"}, prepare: mounted("m251"), inject: mode("var/lib/levelfs/private", 0o750)},
		{finds: []string{"LV252 ROOT/var/cache/levelfs"}, prepare: mounted("m252"), inject: func(w *faulty) {
			w.must(os.Chown(w.Path("var/cache/levelfs"), 7, 7))
		}},
		{finds: []string{"LV253 ROOT/etc/levelfs/password"}, prepare: func(w *faulty) {
			slapd := startSlapd(w.t, testenv.SlapdOptions{}, testenv.Inventory{})
			w.write(w.Path("etc/levelfs/password"), "secret")
			mode("etc/levelfs/password", 0o600)(w)
			w.sources += testenv.LDAPSource(slapd.Base, slapd.URI) + fmt.Sprintf("[source.write]\nbind-dn = %q\npassword-file = %q\n", slapd.RootDN, w.Path("etc/levelfs/password"))
		}, inject: mode("etc/levelfs/password", 0o644)},
		{finds: []string{"LV234 ROOT/var/lib/levelfs/private/run"}, inject: func(w *faulty) {
			w.must(unix.Mount("tmpfs", w.Mkdir("var/lib/levelfs/private/run"), "tmpfs", unix.MS_RDONLY, "mode=0700"))
		}},
		{finds: []string{"LV254 ROOT/etc/levelfs/hooks.d/umount.d/10-cache"}, manual: []string{"LV254 ROOT/etc/levelfs/hooks.d/umount.d/10-cache"}, inject: func(w *faulty) {
			w.must(os.MkdirAll(w.Path("etc/levelfs/hooks.d/umount.d"), 0o755))
			w.write(w.Path("etc/levelfs/hooks.d/umount.d/10-cache"), "#!/bin/true\n")
			mode("etc/levelfs/hooks.d/umount.d/10-cache", 0o777)(w)
		}},
	}
}

// machineFaults are faults of automount's files, of servers, and of processes.
func machineFaults() []injection {
	return []injection{
		// First, as it has to grow old.
		{finds: []string{"LV264 process {hung}"}, inject: (*faulty).hang},
		{finds: []string{"LV260 ROOT/usr/libexec/levelfs/auto.levelfs.user"}, inject: func(w *faulty) {
			w.autofs = append(w.autofs, "/other/by-user  program:"+w.Path("usr/libexec/levelfs/auto.levelfs.user"))
		}},
		{finds: []string{"LV260 ROOT/no/map"}, manual: []string{"LV260 ROOT/no/map"}, inject: func(w *faulty) {
			w.autofs = append(w.autofs, "/another  program:"+w.Path("no/map"))
		}},
		{finds: []string{"LV261 ROOT/etc/auto.master"}, inject: func(w *faulty) {
			w.write(w.Path("etc/auto.master"), "# +dir:/etc/auto.master.d\n+auto.master")
		}},
		{finds: []string{"LV262 mount.levelfs"}, inject: func(w *faulty) { w.must(os.Remove(w.Path("sbin/mount.levelfs"))) }},
		{finds: []string{"LV263 ROOT/sw"}, inject: func(w *faulty) { w.autofs = append(w.autofs, w.Path("sw")+"  program:"+w.Map) }},
		{finds: []string{"LV242 {server}"}, inject: func(w *faulty) {
			future := time.Now().Add(time.Hour).UTC().Format("20060102150405Z")
			text := strings.Replace(testenv.Inventory{}.LDIF(), "o: Example\n", "o: Example\nmodifyTimestamp: "+future+"\n", 1)
			file := w.Path("future.ldif")
			w.write(file, text)
			slapd := startSlapd(w.t, testenv.SlapdOptions{Load: file}, testenv.Inventory{})
			w.names["server"] = slapd.URI
			w.sources += testenv.LDAPSource(slapd.Base, slapd.URI)
		}},
		// Last: from here on a mount takes what is in the cache.
		{finds: []string{"LV240 inventory", "LV241 m241"}, prepare: mounted("m241"), inject: func(w *faulty) {
			w.save()
			past := time.Now().Add(-25 * 24 * time.Hour)
			w.must(os.Chtimes(w.Path("etc/levelfs/levelfs.toml"), past, past))
			w.must(os.Chtimes(w.Path("var/cache/levelfs/answers/lnx01/m241"), past, past))
			w.write(w.Path("var/cache/levelfs/down"), "nobody answers\n")
		}},
	}
}

// hang starts a child of automount that never becomes its program, as far as a look at
// /proc can tell.
func (w *faulty) hang() {
	w.t.Helper()
	shell, err := os.ReadFile("/bin/sh")
	w.must(err)
	program := w.Path("automount")
	w.must(os.WriteFile(program, shell, 0o755))
	cmd := exec.Command(program, "-c", program+` -c 'echo $$; read line; true'; true`)
	in, err := cmd.StdinPipe()
	w.must(err)
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			w.t.Error(err)
		}
	})
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		w.t.Fatal(err)
	}
	w.names["hung"] = fmt.Sprint(pid)
}
