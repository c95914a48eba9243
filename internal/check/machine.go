package check

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/attached"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/hook"
)

// machine looks at what is the machine's and no component's, and which segments there are.
func (g *gatherer) machine(ctx context.Context) {
	if err := g.segments(); err != nil {
		g.unchecked("segments", err)
	}
	if len(g.Keys) > 0 {
		return
	}
	c := g.Config
	var err error
	if g.Perms, err = perms(c); err != nil {
		g.unchecked("rights of files", err)
	}
	if g.NoWrites, err = noWrites(c.PrivateDir(), g.Mounts); err != nil {
		g.unchecked("file systems of private layers", err)
	}
	if g.Refused, err = refusedHooks(c); err != nil {
		g.unchecked("hooks", err)
	}
	if g.Autofs, err = LookAtAutofs(c, g.Mounts); err != nil {
		g.unchecked("automount's configuration", err)
	}
	if g.Hung, err = Hung("/proc", g.options.Now()); err != nil {
		g.unchecked("processes of automount", err)
	}
	if !isAutofs(g.Mounts, c.Tree) {
		return
	}
	// A name that the map refuses without asking anybody: what is looked at is whether
	// automount answers.
	name := filepath.Join(c.Tree, ".levelfs-check")
	_, err = Try(ctx, g.limit, func(context.Context) (struct{}, error) {
		_, err := os.Lstat(name)
		return struct{}{}, err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.unchecked("automount at "+c.Tree, err)
	}
}

// perms are the rights of what others must not change or read. What is not there has
// none.
func perms(c *config.Config) ([]Perm, error) {
	paths := []Perm{{Path: c.File(), What: PermConfig}, {Path: c.PrivateDir(), What: PermPrivate}, {Path: c.CacheDir(), What: PermCache}}
	for _, s := range c.Sources {
		for _, secret := range []string{s.PasswordFile, s.Key, s.Write.PasswordFile, s.Write.Key} {
			if secret != "" {
				paths = append(paths, Perm{Path: secret, What: PermSecret})
			}
		}
	}
	var there []Perm
	for _, p := range paths {
		var st unix.Stat_t
		err := unix.Stat(p.Path, &st)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return there, &fs.PathError{Op: "stat", Path: p.Path, Err: err}
		}
		p.Mode, p.Owner, p.Self = st.Mode&0o7777, st.Uid, uint32(os.Geteuid())
		there = append(there, p)
	}
	return there, nil
}

// noWrites are the mounts of read-only file systems that private layers are on, below the
// directory. What a mount says by itself does not count: in the namespace of
// levelfs-check.service all are read-only.
func noWrites(dir string, mounts []Mount) ([]string, error) {
	var found []string
	some := false
	for _, path := range []string{filepath.Join(dir, "host"), filepath.Join(dir, "user"), filepath.Join(dir, "run"), dir} {
		if path == dir && some {
			break // it has those only
		}
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, &fs.PathError{Op: "statx", Path: path, Err: err}
		}
		some = true
		i := slices.IndexFunc(mounts, func(m Mount) bool { return uint64(m.ID) == st.Mnt_id }) // 0 before Linux 5.8
		if i >= 0 && mounts[i].SuperReadOnly && !slices.Contains(found, mounts[i].Target) {
			found = append(found, mounts[i].Target)
		}
	}
	return found, nil
}

// refusedHooks are the hooks that must not be run, each once.
func refusedHooks(c *config.Config) ([]*hook.RefusedError, error) {
	dir, err := hook.Open(c.Root())
	if dir == nil {
		return nil, err
	}
	var refused []*hook.RefusedError
	for _, e := range hook.Events() {
		set, err := dir.Set(e)
		if err != nil {
			return refused, err
		}
		for _, r := range set.Refused {
			if !slices.ContainsFunc(refused, func(other *hook.RefusedError) bool { return other.Path == r.Path }) {
				refused = append(refused, r)
			}
		}
	}
	return refused, nil
}

func isAutofs(mounts []Mount, target string) bool {
	return slices.ContainsFunc(mounts, func(m Mount) bool { return m.Target == target && m.FSType == "autofs" })
}

// LookAtAutofs looks at levelfs's master map and at what it needs, all of it below the
// configuration's root. Where the map is not installed it returns nil: views can be
// mounted without automount.
func LookAtAutofs(c *config.Config, mounts []Mount) (*Autofs, error) {
	in := func(p string) string { return filepath.Join(c.Root(), p) }
	a := &Autofs{Master: in("/etc/auto.master"), Map: in("/etc/auto.master.d/levelfs.autofs")}
	lines, err := readLines(a.Map)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, fields := range lines {
		if len(fields) < 2 {
			continue
		}
		a.Tree = a.Tree || fields[0] == c.Tree
		if program, ok := strings.CutPrefix(fields[1], "program:"); ok && unix.Access(program, unix.X_OK) != nil {
			a.Programs = append(a.Programs, program)
		}
	}
	a.Served = isAutofs(mounts, c.Tree)
	master, err := readLines(a.Master)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a.Included = slices.ContainsFunc(master, func(fields []string) bool {
		dir, ok := strings.CutPrefix(fields[0], "+dir:")
		return ok && filepath.Clean(dir) == "/etc/auto.master.d"
	})
	// As libmount looks for it (FS_SEARCH_PATH).
	for _, dir := range []string{"/sbin", "/sbin/fs.d", "/sbin/fs"} {
		if path := in(dir + "/mount.levelfs"); unix.Access(path, unix.X_OK) == nil {
			a.Helper = path
			break
		}
	}
	return a, nil
}

// readLines are the words of each line of a map, without comments and empty lines.
func readLines(path string) ([][]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines [][]string
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		if fields := strings.Fields(scan.Text()); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			lines = append(lines, fields)
		}
	}
	return lines, scan.Err()
}

// segments looks which are attached and, if all views are looked at, which of them by levelfs.
func (g *gatherer) segments() error {
	segments := attached.New(g.Config)
	devices, err := segments.List()
	if err != nil && !errors.Is(err, dcss.ErrNoDriver) {
		return err
	}
	for _, d := range devices {
		g.Attached = append(g.Attached, strings.Join(d.Segments, ":"))
		if len(g.Keys) > 0 {
			continue
		}
		ours, err := segments.Ours(d)
		if err != nil {
			return err
		}
		if ours {
			g.Segments = append(g.Segments, d.Name)
		}
	}
	return nil
}

// hungAge is how old a child of automount is that will never run its program: one that
// does is named after it within milliseconds.
const hungAge = 30 * time.Second

// Hung finds children of automount that are still automount. autofs up to 5.1.9 calls
// setenv(3) between fork and exec, which can wait for ever for a lock that another thread
// had at the fork.
func Hung(proc string, now time.Time) ([]Process, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	type process struct {
		parent int
		start  time.Duration // since boot
	}
	automounts := make(map[int]process)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(proc, e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): the name, in parentheses, may contain anything.
		head, tail, ok := strings.Cut(string(text), "(automount) ")
		fields := strings.Fields(tail)
		if !ok || strings.Contains(head, "(") || len(fields) < 20 {
			continue
		}
		parent, err1 := strconv.Atoi(fields[1])
		ticks, err2 := strconv.ParseInt(fields[19], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		// USER_HZ is 100 wherever levelfs runs.
		automounts[pid] = process{parent, time.Duration(ticks) * 10 * time.Millisecond}
	}
	if len(automounts) < 2 {
		return nil, nil
	}
	boot, err := bootTime(proc)
	if err != nil {
		return nil, err
	}
	var found []Process
	for pid, p := range automounts {
		age := now.Sub(boot.Add(p.start))
		if _, child := automounts[p.parent]; child && age > hungAge {
			found = append(found, Process{PID: pid, Age: age})
		}
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, nil
}

func bootTime(proc string) (time.Time, error) {
	text, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(text)) {
		if seconds, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(seconds), 10, 64)
			return time.Unix(n, 0), err
		}
	}
	return time.Time{}, errors.New("/proc/stat has no btime")
}

// Rights are the findings about files whose rights matter.
func Rights(c *config.Config) ([]finding.Finding, error) {
	there, err := perms(c)
	refused, hooksErr := refusedHooks(c)
	j := &judge{State: &State{Config: c, Perms: there, Refused: refused}}
	j.rights()
	return j.findings, errors.Join(err, hooksErr)
}
