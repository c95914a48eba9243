package mounter

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A View is a mounted view, as the kernel describes it.
type View struct {
	ID, Parent int      // of the mount, and of the mount that it is mounted on
	Target     string   // mount point
	Name       string   // "emacs@29.4-1", from the mount's source
	Layers     []string // mounts of its layers, topmost first: "emacs-bin@3f2a9c81d0e4"
	Upper      string   // upperdir, or "" if the view has none
	Work       string   // workdir
	ReadOnly   bool
	// Frozen: the file system is read-only, but not the mount. That is how a view is
	// that is being replaced, or would have been.
	Frozen  bool
	Options []string // of the mount and of overlayfs, layers and directories excluded
	Major   uint32   // device number, by which stat(2) knows it
	Minor   uint32
}

// Views returns the views in this mount namespace, from /proc/self/mountinfo
// (proc_pid_mountinfo(5)). It touches no mounted file system, so that a dead one
// cannot stop it.
func Views() ([]View, error) {
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !isView(m), false })
	if err != nil {
		return nil, err
	}
	return viewsOf(infos), nil
}

// ViewsIn returns the views in a mount namespace that a process is in, from what its
// /proc/PID/mountinfo says.
func ViewsIn(r io.Reader) ([]View, error) {
	infos, err := mountinfo.GetMountsFromReader(r, func(m *mountinfo.Info) (skip, stop bool) { return !isView(m), false })
	if err != nil {
		return nil, err
	}
	return viewsOf(infos), nil
}

// viewAround is the view that the directory lies in, or is the root of, or nil. That is
// told by the mount that it is on, and those that this is mounted on: a view that only has
// its name may be covered by another mount. It makes automount mount nothing.
func viewAround(dir string) (*View, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := os.ReadFile("/proc/thread-self/fdinfo/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(text), "mnt_id:")
	number, _, _ := strings.Cut(rest, "\n")
	id, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil {
		return nil, fmt.Errorf("on which mount is %q? %w", dir, err)
	}
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	mounts := make(map[int]*mountinfo.Info, len(infos))
	for _, m := range infos {
		mounts[m.ID] = m
	}
	for m := mounts[id]; m != nil && m.ID != m.Parent; m = mounts[m.Parent] {
		if isView(m) {
			return &viewsOf([]*mountinfo.Info{m})[0], nil
		}
	}
	return nil, nil
}

func isView(m *mountinfo.Info) bool {
	return m.FSType == "overlay" && strings.HasPrefix(m.Source, SourcePrefix)
}

func viewsOf(infos []*mountinfo.Info) []View {
	views := make([]View, 0, len(infos))
	for _, m := range infos {
		v := View{
			ID:     m.ID,
			Parent: m.Parent,
			Target: m.Mountpoint,
			Name:   strings.TrimPrefix(m.Source, SourcePrefix),
			Major:  uint32(m.Major), Minor: uint32(m.Minor),
			Options: strings.Split(m.Options, ","),
		}
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			key, value, _ := strings.Cut(unescape(option), "=")
			switch key {
			case "lowerdir+":
				v.Layers = append(v.Layers, path.Base(value))
			case "lowerdir":
				for dir := range strings.SplitSeq(value, ":") {
					v.Layers = append(v.Layers, path.Base(dir))
				}
			case "upperdir":
				v.Upper = value
			case "workdir":
				v.Work = value
			default:
				v.Options = append(v.Options, unescape(option))
			}
		}
		v.ReadOnly = slices.Contains(v.Options, "ro")
		v.Frozen = v.Upper != "" && v.ReadOnly && !slices.Contains(strings.Split(m.Options, ","), "ro")
		views = append(views, v)
	}
	return views
}

// Above are the contents of the layers above those of the level, topmost first, as
// [Layer.Content] has them.
func (v View) Above() []string {
	var above []string
	for _, mount := range v.Layers {
		if content, kind := splitMount(mount); kind != "" {
			above = append(above, content)
		}
	}
	return above
}

// AboveNames are the names of the layers above those of the level, topmost first.
func (v View) AboveNames() []string {
	names := v.Above()
	for i, content := range names {
		names[i], _, _ = strings.Cut(content, "@")
	}
	return names
}

// KindOf is the kind of a layer that is added above the level, by the layer's mount as a
// [View] names it; "" for one of the level.
func KindOf(mount string) string {
	_, kind := splitMount(mount)
	return kind
}

// splitMount takes the name of a layer's mount apart. A layer's name may have any of the
// signs but the first.
func splitMount(mount string) (content, kind string) {
	name, rest, _ := strings.Cut(mount, "@")
	rest, _, _ = strings.Cut(rest, "+")
	rest, kind, _ = strings.Cut(rest, "~")
	return name + "@" + rest, kind
}

// Flags are the view's mount flags, for a view that is to take its place.
func (v View) Flags() []string {
	var flags []string
	names := mountFlags()
	for _, option := range v.Options {
		if _, known := names[option]; known && option != "ro" && option != "nodev" {
			flags = append(flags, option)
		}
	}
	return flags
}

// Since is when the view was mounted, or the zero time if that is not known (the
// kernel does not say; [Applier] leaves a mark in the run directory).
func (v View) Since(run string) time.Time {
	info, err := os.Stat(viewMark(run, v.Major, v.Minor))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// unescape undoes the kernel's octal escapes (seq_escape in fs/seq_file.c), which
// the library leaves in the file system's own options.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
