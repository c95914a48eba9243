package check

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// Options say what to look at.
type Options struct {
	Keys  []ldapmap.Key // components or levels; none: the whole machine
	Sizes bool          // add up the private layers, which takes a look at each of their files
	// All asks every file of a view whether it is executed in place, and not a sample, and
	// makes the lists of files that private ones are compared with.
	All bool
	Now func() time.Time
}

// probeTime bounds one look, besides the context.
const probeTime = 10 * time.Second

// Gather looks at the machine. It returns when the context ends, at the latest: what was
// not looked at by then is in the State's Unchecked. The error is that of a machine of
// which nothing can be said.
func Gather(ctx context.Context, c *config.Config, o Options) (*State, error) {
	s := &State{Config: c, Keys: o.Keys, Now: o.Now(), PrivateBytes: -1}
	g := &gatherer{State: s, options: o, limit: probeTime}
	if end, ok := ctx.Deadline(); ok { // one dead thing must leave time for the others
		g.limit = min(g.limit, time.Until(end)/3)
	}
	if err := g.mounts(); err != nil {
		return nil, err
	}
	// Each looks at something else, and may have to wait for it.
	var all sync.WaitGroup
	for _, look := range []func(context.Context){g.inventory, g.look, g.machine} {
		all.Go(func() { look(ctx) })
	}
	all.Wait()
	g.holders(ctx)
	g.compare(ctx)
	slices.SortFunc(s.Unchecked, func(a, b Unchecked) int { return strings.Compare(a.What+a.Why, b.What+b.Why) })
	return s, nil
}

// A gatherer fills in a State.
type gatherer struct {
	*State
	options Options
	mounted []*ldapmap.Resolution // the levels of the views, as far as mounts have left them in the cache
	limit   time.Duration         // of one look
	mu      sync.Mutex            // of Unchecked
}

// unchecked notes what could not be looked at.
func (g *gatherer) unchecked(what string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Unchecked = append(g.Unchecked, Unchecked{What: what, Why: err.Error()})
}

// about reports whether the component, or the level of it, is asked for.
func (s *State) about(component, level string) bool {
	return len(s.Keys) == 0 || slices.ContainsFunc(s.Keys, func(k ldapmap.Key) bool {
		return k.Component == component && (k.Level == "" || k.String() == level)
	})
}

// mounts reads the kernel's tables, which touches no mounted file system, and what mounts have
// left in the cache.
func (g *gatherer) mounts() error {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return err
	}
	for _, m := range infos {
		g.Mounts = append(g.Mounts, Mount{ID: m.ID, Parent: m.Parent, Target: m.Mountpoint, FSType: m.FSType, Source: m.Source,
			Major: uint32(m.Major), Minor: uint32(m.Minor), SuperReadOnly: slices.Contains(strings.Split(m.VFSOptions, ","), "ro")})
	}
	views, err := mounter.Views()
	if err != nil {
		return err
	}
	store := cache.Cache{Dir: g.Config.CacheDir()}
	levels := make(map[string]*ldapmap.Resolution) // as mounts have left them; nil: it is not there
	for _, v := range views {
		component, _, _ := strings.Cut(v.Name, "@")
		if !g.about(component, v.Name) {
			continue
		}
		who := Asker{User: view.UserOf(g.Config, v), Component: component}
		if view.Pinned(v) {
			_, who.Level, _ = strings.Cut(v.Name, "@")
		}
		level, seen := levels[v.Name]
		if !seen {
			level, _, _ = store.Level(v.Name)
			levels[v.Name] = level
			if level != nil {
				g.mounted = append(g.mounted, level)
			}
		}
		g.Views = append(g.Views, View{View: v, Asker: who, Since: v.Since(g.Config.RunDir()),
			Definitions: store.Layers(level, v.AboveNames())})
	}
	g.Defaults, err = overlayDefaults("/sys/module/overlay/parameters")
	return err
}

// overlayDefaults are the values of the options that overlayfs does not show because they
// are what its module parameters say (ovl_show_options in fs/overlayfs/params.c). Without
// parameters nothing is known of them.
func overlayDefaults(dir string) (map[string]string, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, nil
	}
	on := func(parameter string) bool {
		text, err := os.ReadFile(path.Join(dir, parameter))
		return err == nil && strings.HasPrefix(string(text), "Y")
	}
	values := make(map[string]string)
	for _, p := range [][2]string{{"index", "index"}, {"metacopy", "metacopy"}, {"nfs_export", "nfs_export"}, {"xino_auto", "xino"}} {
		values[p[1]] = "off"
		if on(p[0]) {
			values[p[1]] = "on"
		}
	}
	switch {
	case on("redirect_dir"):
		values["redirect_dir"] = "on"
	case on("redirect_always_follow"):
		values["redirect_dir"] = "follow"
	default:
		values["redirect_dir"] = "nofollow"
	}
	return values, nil
}

// look reads each view's root directory, and asks whether what lies in shared memory is
// executed in place.
func (g *gatherer) look(ctx context.Context) {
	each(8, len(g.Views), func(i int) { g.lookInto(ctx, &g.Views[i]) })
}

// each calls do for 0 to n-1, so many at once.
func each(atOnce, n int, do func(i int)) {
	next := make(chan int)
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

func (g *gatherer) lookInto(ctx context.Context, v *View) {
	target, upper := v.Target, v.Upper
	if ctx.Err() != nil {
		g.unchecked("view "+target, errors.New("no time was left for it"))
		return
	}
	_, err := Try(ctx, g.limit, func(context.Context) (struct{}, error) { return struct{}{}, readSome(target) })
	if v.Readable = err == nil; err != nil {
		g.unchecked("view "+target, err)
		return
	}
	if !slices.ContainsFunc(v.Layers, mounter.InSharedMemory) {
		return
	}
	proof, err := Try(ctx, g.limit, func(ctx context.Context) (mounter.Proof, error) {
		files := view.Sample
		if g.options.All {
			files = 0
		}
		return view.Prove(ctx, target, upper, files)
	})
	if err != nil {
		g.unchecked("execution in place of view "+target, err)
		return
	}
	v.Proof = &proof
}

// readSome reads the first names of a directory and looks at what they name: enough to
// find a file system of which nothing can be read. overlayfs reads its layers with
// O_NOATIME, so that not even a time is written.
func readSome(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(16)
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: it is empty
		return err
	}
	for _, name := range names {
		if _, err := os.Lstat(path.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
