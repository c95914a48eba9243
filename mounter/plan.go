package mounter

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// maxLayers is overlayfs's OVL_MAX_STACK (fs/overlayfs/params.h).
const maxLayers = 500

// SourcePrefix starts the mount source of every view: "levelfs:emacs@29.4-1".
const SourcePrefix = "levelfs:"

// overlayOptions is the only set of options under which the kernel allows a new
// level under an old private layer: "Offline changes to the lower tree are only
// allowed if the metacopy, index, xino and redirect_dir features have not been
// used" (overlayfs.rst). They are spelled out because their defaults differ
// between kernels. redirect_dir is nofollow, since off means follow where the
// module parameter redirect_always_follow is set. In a user namespace overlayfs may not
// keep its notes in trusted.* attributes, and uses user.* instead.
func overlayOptions(userNS bool) []string {
	options := []string{"index=off", "metacopy=off", "redirect_dir=nofollow", "xino=off", "nfs_export=off"}
	if userNS {
		options = append(options, "userxattr")
	}
	return options
}

// A Request says which view is wanted, in full: planning looks nothing up.
type Request struct {
	Name   string // of the level: "emacs@29.4-1"
	Target string // absolute path of the mount point
	// Also are more mount points for the same view. Unlike Target, each may be one of
	// automount's that waits for an access, or have a view already, which is covered.
	Also   []string
	Layers []Layer // topmost first
	// Released says that the level never changes: one of this name with other
	// layers than it had is refused.
	Released bool
	Private  *Private // nil: the view is read-only
	// Replaces is the mounted view whose place the new one is to take, together with
	// its private layer, or nil for a mount where there is none.
	Replaces *View
	// Discard allows to replace a view whose private layer is in memory, although what
	// is in it cannot be handed over.
	Discard bool
	// UserNS says that the mount is made in a user namespace (user_namespaces(7)) by
	// somebody who is not root outside: layers can only be directories, and are nobody's
	// but the caller's.
	UserNS bool
	Flags  []string // mount flags by their mount(8) names; nodev is added
	Run    string   // directory for what does not outlive a boot
	Cache  string   // directory for what can be had again
}

// A Layer is one read-only layer as it is on this machine.
type Layer struct {
	Name   string `json:"name"`
	FSType string `json:"fstype"`           // erofs, squashfs, ext4, or dir
	Digest string `json:"digest,omitempty"` // "sha256:…" of the image; empty for dir
	Size   int64  `json:"size,omitempty"`   // bytes; 0: not checked
	UUID   string `json:"uuid,omitempty"`   // of the file system; empty: not checked
	// Kind is empty for a layer of the level, and says for one that is added above it on
	// whose part: site, group, host or user.
	Kind string `json:"kind,omitempty"`
	// Dir and Path locate the image file or the directory: Path is relative to Dir
	// and is opened so that no symbolic link leads out of it.
	Dir  string `json:"dir"`
	Path string `json:"path"`
	// Devices are where the image may be in shared memory, tried in this order before
	// the image file. Without a file (Path is "") one of them has to be there.
	Devices []Device `json:"devices,omitempty"`
	XIP     XIP      `json:"xip,omitempty"` // wanted of them; "" is XIPAuto
	Why     string   `json:"why,omitempty"` // the choice, for people

	chosen *Device // while the plan is executed; nil: the image file
}

// Choice says where the layer's image is taken from, as far as that is known before it
// is tried.
func (l Layer) Choice() string {
	switch {
	case l.FSType == "dir":
		return "directory"
	case len(l.Devices) > 0:
		return l.Devices[0].String()
	}
	return "image file"
}

// File is the absolute path of the layer's image file or directory, "" if it has none.
func (l Layer) File() string { return filepath.Join(l.Dir, l.Path) }

// Content is name and content in one word: wherever the layer is mounted from.
func (l Layer) Content() string {
	if l.FSType == "dir" {
		return l.Name + "@dir"
	}
	return l.Name + "@" + strings.TrimPrefix(l.Digest, "sha256:")[:12]
}

// mountName is how the layer's mount is called on the stage, and therefore in the
// view's line in /proc/self/mountinfo: name and content in one word, with its kind and
// the device that it is on.
func (l Layer) mountName() string {
	name := l.Content()
	if l.Kind != "" {
		name += "~" + l.Kind
	}
	if l.chosen != nil {
		name += "+" + string(l.chosen.Kind) + "." + plainName(l.chosen.Name)
	}
	return name
}

// mountNames are those of all layers, topmost first.
func (p *Plan) mountNames() []string {
	var names []string
	for _, l := range p.Layers {
		names = append(names, l.mountName())
	}
	return names
}

// plainName replaces what would need quoting in mount options: of joined segments the
// first stands for all, as for the driver, and national characters are left out.
func plainName(device string) string {
	first, _, _ := strings.Cut(device, ":")
	return strings.Map(func(r rune) rune {
		if r == '$' || r == '#' || r == '@' {
			return '_'
		}
		return r
	}, first)
}

// A Private is a private layer: a directory that holds upper and work for
// overlayfs, the file level (which level it was last under), the file bases (which ones
// before, see [Bases]) and the file lock.
//
// The lock is held while a view is made. After that the kernel is the lock: as
// long as any overlay uses upper, even one that was lazily unmounted or lives in
// another mount namespace, the next Apply finds it in use and refuses.
type Private struct {
	Dir       string `json:"dir,omitempty"`       // absolute; empty if ephemeral
	Ephemeral bool   `json:"ephemeral,omitempty"` // in memory, gone with the view
	// Owner is the user whose it is, and who has it and the view for himself, or nil:
	// then the view is whose the level's topmost layer is.
	Owner *Owner `json:"owner,omitempty"`
}

// Upper is the upper directory of the private layer in dir, whose owner is the private
// layer's.
func Upper(dir string) string { return filepath.Join(dir, "upper") }

func (p *Private) upper() string { return Upper(p.Dir) }
func (p *Private) work() string  { return filepath.Join(p.Dir, "work") }
func (p *Private) level() string { return filepath.Join(p.Dir, "level") }
func (p *Private) lock() string  { return filepath.Join(p.Dir, "lock") }

// otherWork is the work directory of a view that replaces one with the usual: an
// overlay that is made clears its work directory, and the one that had it before could
// not go on if it had to.
func (p *Private) otherWork() string { return filepath.Join(p.Dir, "work2") }

// A Plan is a view that could be mounted, as pure data.
type Plan struct {
	Name   string   `json:"name"`   // "emacs@29.4-1"
	Source string   `json:"source"` // as mountinfo will show it
	Target string   `json:"target"`
	Also   []string `json:"also,omitempty"`
	Layers []Layer  `json:"layers"` // topmost first
	// Released: the level never changes.
	Released bool     `json:"released"`
	Private  *Private `json:"private,omitempty"`
	Replaces *Old     `json:"replaces,omitempty"`
	UserNS   bool     `json:"userns,omitempty"`
	IDMap    *IDMap   `json:"idmap,omitempty"` // whose the layers' files are; nil: whose they are
	Flags    []string `json:"flags"`           // of the mount
	Options  []string `json:"options"`         // of overlayfs, layers excluded
	Stage    string   `json:"stage"`           // where the layers are mounted, visible to the helper only
	Run      string   `json:"run"`
	Cache    string   `json:"cache"`
	Steps    []Step   `json:"steps"`
}

// An Old is the view that a plan replaces: which one, so that it is no other when the
// plan is executed, and what it has in use.
type Old struct {
	Name  string `json:"name"`
	ID    int    `json:"id"` // of the mount
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	Work  string `json:"work,omitempty"` // workdir
}

// A Step is one thing to do. What it does it to is in the Plan: Layer is an index
// into Plan.Layers.
type Step struct {
	Op     Op     `json:"op"`
	Layer  int    `json:"layer"`            // -1 if the step is about no layer
	Path   string `json:"path,omitempty"`   // what is read
	Target string `json:"target,omitempty"` // what is made
}

// Op says what a Step does.
type Op string

// The operations, in the order in which a plan has them. A plan that replaces a view has
// OpReplaces for OpTarget and OpIdle, and leaves the stage before the last step.
const (
	OpTarget   Op = "target"   // refuse a mount point that is no directory, or in a view
	OpLock     Op = "lock"     // take the private layer's lock
	OpIdle     Op = "idle"     // refuse if any view uses the private layer
	OpReplaces Op = "replaces" // hold on to the view that is replaced, and refuse if it is another
	OpDevice   Op = "device"   // find the image in shared memory, attached if need be
	OpCheck    Op = "check"    // refuse an image that is not the layer
	OpStage    Op = "stage"    // a mount namespace and a tmpfs for the layers' mounts
	OpMount    Op = "mount"    // mount an image on the stage, through a loop device that is shared
	OpBind     Op = "bind"     // bind a plain directory on the stage
	OpIDMap    Op = "idmap"    // map root's files in the layer to the private layer's owner, if the kernel can
	OpEmpty    Op = "empty"    // an empty directory: overlayfs wants two layers
	OpPrivate  Op = "private"  // make upperdir and workdir if they are not there
	OpFreeze   Op = "freeze"   // make the old view read-only, or refuse if somebody writes
	OpRecord   Op = "record"   // write down which level the private layer is under
	OpOverlay  Op = "overlay"  // stack the layers, and attach the view unless it replaces one
	OpUnstage  Op = "unstage"  // give up the stage: only the view stays
	OpAlso     Op = "also"     // attach the view at another mount point
	OpReplace  Op = "replace"  // attach the view beneath the old one, and take that away
)

// A PlanError is a view that cannot be mounted as it is described.
type PlanError struct {
	View   string
	Reason string
}

func (e *PlanError) Error() string { return fmt.Sprintf("view %s: %s", e.View, e.Reason) }

// Build plans a view. It does no input or output. What cannot work is refused
// here, before anything is touched: no layer, more than 500 layers, one layer
// twice, two layers with one content.
func Build(r Request) (*Plan, error) {
	refuse := func(format string, args ...any) (*Plan, error) {
		return nil, &PlanError{View: r.Name, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case len(r.Also) > 0 && r.Replaces != nil:
		return refuse("a view that replaces one has the mount point of that")
	case len(r.Layers) == 0:
		return refuse("no layers")
	case len(r.Layers) > maxLayers:
		return refuse("%d layers, but overlayfs takes at most %d", len(r.Layers), maxLayers)
	}
	for _, target := range append([]string{r.Target}, r.Also...) {
		if !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/" {
			return refuse("target %q is not a clean absolute path", target)
		}
	}
	if reason := r.irreplaceable(); reason != "" {
		return refuse("%s", reason)
	}
	if r.Replaces != nil && r.Private != nil && r.Private.Ephemeral && !r.Discard {
		return nil, &LossError{View: r.Replaces.Name, Target: r.Target}
	}
	names, contents := make(map[string]bool), make(map[string]string)
	for _, l := range r.Layers {
		content := l.Digest
		if l.FSType == "dir" {
			content = l.File()
		} else if r.UserNS {
			return refuse("layer %q is an image, which only root can mount", l.Name)
		} else if len(l.Digest) < len("sha256:")+64 {
			return refuse("layer %q has no digest", l.Name)
		}
		if names[l.Name] {
			return refuse("layer %q is in it twice", l.Name)
		}
		if other, dup := contents[content]; dup {
			return refuse("layers %q and %q have the same content %s", other, l.Name, content)
		}
		names[l.Name], contents[content] = true, l.Name
	}
	p := &Plan{
		Name:     r.Name,
		Source:   SourcePrefix + r.Name,
		Target:   r.Target,
		Also:     r.Also,
		Layers:   r.Layers,
		Released: r.Released,
		Private:  r.Private,
		Flags:    append([]string{"nodev"}, r.Flags...),
		UserNS:   r.UserNS,
		Options:  overlayOptions(r.UserNS),
		Stage:    filepath.Join(r.Run, "layers"),
		Run:      r.Run,
		Cache:    r.Cache,
	}
	if v := r.Replaces; v != nil {
		p.Replaces = &Old{Name: v.Name, ID: v.ID, Major: v.Major, Minor: v.Minor, Work: v.Work}
	}
	switch {
	case p.Private == nil:
		p.Flags = append([]string{"ro"}, p.Flags...)
	case !p.UserNS: // where it is not for the caller to say whose they are
		p.IDMap = p.Private.Owner.idMap()
	}
	p.Steps = p.steps()
	return p, nil
}

// Shows reports whether the view is what the plan makes: its level, of the same layers.
func (p *Plan) Shows(v View) bool {
	var layers []string
	for _, dir := range p.lowers() {
		layers = append(layers, filepath.Base(dir))
	}
	return v.Name == p.Name && slices.Equal(layers, v.Layers)
}

func (p *Plan) steps() []Step {
	var steps []Step
	add := func(op Op, layer int, path, target string) {
		steps = append(steps, Step{Op: op, Layer: layer, Path: path, Target: target})
	}
	kept := p.Private != nil && !p.Private.Ephemeral
	if p.Replaces != nil {
		add(OpLock, -1, "", p.lock())
		add(OpReplaces, -1, "", p.Target)
	} else {
		add(OpTarget, -1, "", p.Target)
	}
	if kept && p.Replaces == nil {
		add(OpLock, -1, "", p.Private.lock())
		add(OpIdle, -1, p.Private.upper(), "")
	}
	for i, l := range p.Layers {
		if len(l.Devices) > 0 {
			add(OpDevice, i, l.Devices[0].String(), "")
		}
		if l.FSType != "dir" && l.Path != "" {
			add(OpCheck, i, l.File(), "")
		}
	}
	add(OpStage, -1, "", p.Stage)
	for i, l := range p.Layers {
		op := OpMount
		if l.FSType == "dir" {
			op = OpBind
		}
		add(op, i, l.File(), p.staged(l))
		if p.IDMap != nil {
			add(OpIDMap, i, "", p.staged(l))
		}
	}
	if len(p.Layers) == 1 && p.Private == nil {
		add(OpEmpty, -1, "", p.empty())
	}
	if p.Private != nil {
		add(OpPrivate, -1, p.staged(p.root()), p.upper())
	}
	if p.Replaces != nil && p.Private != nil {
		add(OpFreeze, -1, "", p.Target)
	}
	if kept {
		add(OpRecord, -1, "", p.Private.level())
	}
	add(OpOverlay, -1, p.Stage, p.Target)
	add(OpUnstage, -1, "", p.Stage)
	if p.Replaces != nil {
		add(OpReplace, -1, "", p.Target)
	}
	for _, target := range p.Also {
		add(OpAlso, -1, p.Target, target)
	}
	return steps
}

// root is the layer whose root directory the view's own is made after: the topmost of the
// level, whatever is added above it when the private layer is made.
func (p *Plan) root() Layer {
	return p.Layers[max(0, slices.IndexFunc(p.Layers, func(l Layer) bool { return l.Kind == "" }))]
}

// staged is where the layer is mounted while the overlay is made.
func (p *Plan) staged(l Layer) string { return filepath.Join(p.Stage, l.mountName()) }

// empty is the second layer of a read-only view that has only one: overlayfs
// refuses a single lower layer without an upper one.
func (p *Plan) empty() string { return filepath.Join(p.Stage, "empty") }

func (p *Plan) upper() string {
	if p.Private.Ephemeral {
		return filepath.Join(p.Stage, "upper")
	}
	return p.Private.upper()
}

func (p *Plan) work() string {
	if p.Private.Ephemeral {
		return filepath.Join(p.Stage, "work")
	}
	if p.Replaces != nil && p.Replaces.Work == p.Private.work() {
		return p.Private.otherWork()
	}
	return p.Private.work()
}

// lowers are overlayfs's lower layers, topmost first.
func (p *Plan) lowers() []string {
	var dirs []string
	for _, l := range p.Layers {
		dirs = append(dirs, p.staged(l))
	}
	if len(p.Layers) == 1 && p.Private == nil {
		dirs = append(dirs, p.empty())
	}
	return dirs
}
