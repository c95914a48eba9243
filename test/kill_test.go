package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// harmless are the system calls that are not counted, since a kill before one of
// them leaves what a kill before the next other call leaves. The Go runtime minds its
// memory, threads and clocks with some, at times that differ from run to run. The
// others read, or make and close descriptors, which a kill closes too.
var harmless = map[uint64]bool{
	unix.SYS_FUTEX: true, unix.SYS_MMAP: true, unix.SYS_MUNMAP: true, unix.SYS_MADVISE: true, unix.SYS_MPROTECT: true,
	unix.SYS_MINCORE: true, unix.SYS_PRCTL: true, unix.SYS_PRLIMIT64: true, unix.SYS_GETRANDOM: true, unix.SYS_RSEQ: true,
	unix.SYS_RT_SIGACTION: true, unix.SYS_RT_SIGPROCMASK: true, unix.SYS_RT_SIGRETURN: true, unix.SYS_SIGALTSTACK: true,
	unix.SYS_TGKILL: true, unix.SYS_CLONE: true, unix.SYS_EXIT: true, unix.SYS_SET_ROBUST_LIST: true,
	unix.SYS_RESTART_SYSCALL: true, unix.SYS_SCHED_YIELD: true, unix.SYS_SCHED_GETAFFINITY: true,
	unix.SYS_NANOSLEEP: true, unix.SYS_CLOCK_GETTIME: true, unix.SYS_GETTIMEOFDAY: true, unix.SYS_SETITIMER: true,
	unix.SYS_TIMER_CREATE: true, unix.SYS_TIMER_SETTIME: true, unix.SYS_TIMER_DELETE: true,
	unix.SYS_EPOLL_CREATE1: true, unix.SYS_EPOLL_CTL: true, unix.SYS_EPOLL_PWAIT: true, unix.SYS_EVENTFD2: true,
	unix.SYS_GETTID: true, unix.SYS_GETPID: true, unix.SYS_GETUID: true, unix.SYS_GETEUID: true, unix.SYS_UNAME: true,
	unix.SYS_READ: true, unix.SYS_PREAD64: true, unix.SYS_LSEEK: true, unix.SYS_GETDENTS64: true, unix.SYS_FCNTL: true,
	unix.SYS_READLINK: true, unix.SYS_READLINKAT: true, unix.SYS_FSTAT: true, unix.SYS_NEWFSTATAT: true, unix.SYS_STAT: true,
	unix.SYS_LSTAT: true, unix.SYS_STATFS: true, unix.SYS_STATX: true, unix.SYS_USTAT: true, unix.SYS_GETCWD: true,
	unix.SYS_CLOSE: true, unix.SYS_FADVISE64: true,
}

// everyCall makes the test count all system calls but the runtime's, which takes
// minutes and has found nothing more.
var everyCall = os.Getenv("LEVELFS_TEST_KILL") == "all"

// counted reports whether the call is one to be killed before.
func (i *traceInfo) counted() bool {
	if i.nr == unix.SYS_OPENAT {
		return everyCall || i.args[2]&(unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC) != unix.O_RDONLY
	}
	if everyCall && (i.nr == unix.SYS_CLOSE || i.nr == unix.SYS_READ || i.nr == unix.SYS_PREAD64) {
		return true
	}
	return !harmless[i.nr]
}

// traceInfo is the kernel's struct ptrace_syscall_info (ptrace(2)), as far as it is
// needed: the same on every architecture.
type traceInfo struct {
	op          uint8
	_           [3]uint8
	arch        uint32
	instruction uint64
	stack       uint64
	nr          uint64
	args        [6]uint64
	_           [2]uint64
}

// wakesRuntime reports whether the call is one by which a thread of the Go runtime wakes
// another, which it does when it happens to sleep: a write to an eventfd.
func (i *traceInfo) wakesRuntime(tid int) bool {
	if i.nr != unix.SYS_WRITE {
		return false
	}
	file, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, i.args[0]))
	return err == nil && file == "anon_inode:[eventfd]"
}

const (
	ptraceGetSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO
	syscallInfoEntry     = 1      // PTRACE_SYSCALL_INFO_ENTRY
	waitNoThread         = 0x20000000
)

// A traced run of a program.
type traced struct {
	calls  []uint64 // numbers of the counted system calls, in their order
	killed bool
	exit   int
}

// A killPoint is before the n-th of the counted system calls of one number, from 1. The zero
// value is never reached. Points of all calls by their order alone would differ from run to
// run, since the threads of a program take turns as it happens.
type killPoint struct {
	nr uint64
	n  int
}

func (p killPoint) String() string { return fmt.Sprintf("call %d of number %d", p.n, p.nr) }

// points returns the points before each of the calls.
func (r traced) points() []killPoint {
	var points []killPoint
	seen := make(map[uint64]int)
	for _, nr := range r.calls {
		seen[nr]++
		points = append(points, killPoint{nr, seen[nr]})
	}
	return points
}

// traceKill runs a program and kills it, with SIGKILL and all of its threads, at the point,
// on the entry of the system call, which is then not executed. If it does not get there it
// runs to its end.
func traceKill(t *testing.T, at killPoint, env []string, argv ...string) traced {
	t.Helper()
	return traceKillAs(t, at, env, argv[0], argv...)
}

// traceKillAs is traceKill of a program under another name. It has a descriptor 3, too.
func traceKillAs(t *testing.T, at killPoint, env []string, name string, argv ...string) traced {
	t.Helper()
	type result struct {
		traced
		err error
	}
	done := make(chan result, 1)
	go func() {
		// Every ptrace call has to come from the thread that the tracee knows; no
		// other goroutine may have children on it. It ends with this function.
		runtime.LockOSThread()
		var r result
		r.traced, r.err = trace(at, env, name, argv)
		done <- r
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.traced
}

func trace(at killPoint, env []string, name string, argv []string) (r traced, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return r, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	if name != argv[0] {
		files = append(files, null.Fd())
	}
	pid, err := syscall.ForkExec(argv[0], append([]string{name}, argv[1:]...), &syscall.ProcAttr{
		Env: env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return r, err
	}
	timer := time.AfterFunc(testenv.WaitLimit, func() { syscall.Kill(pid, syscall.SIGKILL) })
	defer timer.Stop()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil { // the exec
		return r, fmt.Errorf("wait for exec: %w", err)
	}
	options := unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return r, fmt.Errorf("ptrace options: %w", err)
	}
	if err := unix.PtraceSyscall(pid, 0); err != nil {
		return r, fmt.Errorf("ptrace: %w", err)
	}
	seen := 0
	for {
		tid, err := syscall.Wait4(-1, &status, syscall.WALL|waitNoThread, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return r, fmt.Errorf("wait: %w", err)
		}
		if status.Exited() || status.Signaled() {
			if tid != pid {
				continue // one thread
			}
			r.exit = status.ExitStatus()
			return r, nil
		}
		signal := 0
		switch s := status.StopSignal(); {
		case s == syscall.SIGTRAP|0x80:
			var info traceInfo
			if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
				if errno == unix.ESRCH {
					continue // killed
				}
				return r, fmt.Errorf("PTRACE_GET_SYSCALL_INFO: %w", errno)
			}
			if info.op != syscallInfoEntry || !info.counted() || r.killed || info.wakesRuntime(tid) {
				break
			}
			r.calls = append(r.calls, info.nr)
			if info.nr == at.nr {
				seen++
			}
			if seen == at.n && at.n > 0 {
				r.killed = true
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					return r, err
				}
				continue
			}
		case s == syscall.SIGTRAP || s == syscall.SIGSTOP: // a new thread, on both sides
		default:
			signal = int(s)
		}
		if err := unix.PtraceSyscall(tid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return r, fmt.Errorf("ptrace: %w", err)
		}
	}
}

// TestKill kills the helper before each of its system calls. After each the view is
// not there, or is there as a whole; nothing else has stayed; the private layer is as
// it was; and the next helper works.
func TestKill(t *testing.T) {
	for _, kind := range []string{
		"warm",  // mounted before, at this level
		"level", // mounted before, at another level
		"cold",  // never mounted: there is no private layer, and no image was checked
		"user",  // the same, for a user
	} {
		t.Run(kind, func(t *testing.T) { testKill(t, kind) })
	}
}

func testKill(t *testing.T, kind string) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one", "conf": "delivered", "d/x": "x"})
	two := r.Store.Erofs("two", testenv.Files{"file": "two", "two": "two"})
	tree := map[string]string{"file": "one", "conf": "delivered", "d/x": "x", "two": "two"}
	private, owner := r.PrivateDir("emacs"), testenv.User{}
	mode := uint32(0o755)
	cold := kind == "cold" || kind == "user"
	var options []string
	if kind == "user" {
		private, owner, mode, options = r.UserPrivateDir("rob", "emacs"), rob, 0o700, []string{"-o", forRob}
	}
	if !cold {
		if kind == "warm" {
			r.level("1", one, two)
		} else {
			r.level("0", two)
		}
		r.mount()
		r.write(r.target+"/private", "mine")
		r.write(r.target+"/conf", "mine")
		r.umount(r.target)
		tree["conf"], tree["private"] = "mine", "mine"
	}
	r.level("1", one, two)
	record, err := os.ReadFile(private + "/level")
	if err != nil && !cold {
		t.Fatal(err)
	}
	// The upper directory and all in it.
	upper := func() string {
		_, files, _ := strings.Cut("\n"+r.privateFiles(), "\nhost/emacs/upper ")
		return files
	}
	files := upper()
	mounts := mountTable(t)
	// The key names the level and the map is asked before, as automount does it: what
	// is killed is the helper alone.
	const key = "emacs@1"
	run := func(at killPoint) traced {
		t.Helper()
		if got := r.RunMap(key); got.Exit != 0 {
			t.Fatal(got)
		}
		switch kind {
		case "cold", "user":
			for _, dir := range []string{private, r.Path("/run/levelfs"), r.Path("/var/cache/levelfs/verified")} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		case "level":
			r.write(private+"/level", string(record))
			if err := os.RemoveAll(private + "/bases"); err != nil {
				t.Fatal(err)
			}
		}
		return traceKill(t, at, r.Env(), append([]string{r.Helper, key, r.target}, options...)...)
	}
	whole := run(killPoint{})
	if whole.exit != 0 {
		t.Fatalf("traced, but not killed: exit %d", whole.exit)
	}
	r.want(tree)
	r.umount(r.target)

	start := time.Now()
	points, mounted := 0, 0
	for _, at := range whole.points() {
		if !run(at).killed { // this run did without that call
			r.umount(r.target)
			continue
		}
		points++
		now := mountTable(t)
		if !slices.Equal(now, mounts) {
			mounted++
			if len(now) != len(mounts)+1 || !slices.Equal(now[:len(mounts)], mounts) || !strings.Contains(now[len(mounts)], " "+r.target+" ") {
				t.Errorf("mounts are now\n%s\nand were\n%s", strings.Join(now, "\n"), strings.Join(mounts, "\n"))
			}
			r.want(tree)
			r.Umount(r.target)
		}
		r.wantNoLoops()
		if now := upper(); !cold && now != files {
			t.Errorf("upper directory is now\n%s\nand was\n%s", now, files)
		}
		if text, err := os.ReadFile(private + "/level"); !cold && (err != nil || string(text) != string(record) && !strings.HasPrefix(string(text), "level emacs@1\n")) {
			t.Errorf("file level: %q, %v", text, err)
		}
		// The next one works, and clears up what was unfinished.
		r.mountAt(key, r.target, options...)
		r.want(tree)
		r.wantMode(mode, owner, r.target, filepath.Join(private, "upper"))
		r.umount(r.target)
		// A change of level has a history, too.
		switch entries, err := os.ReadDir(private); {
		case err == nil && fmt.Sprint(entries) == "[- level - lock d upper/ d work/]":
		case err == nil && fmt.Sprint(entries) == "[- bases - history - level - level.before - lock d upper/ d work/]":
		default:
			t.Errorf("private layer: %v, %v", entries, err)
		}
		if bases, err := mounter.Bases(private); kind == "level" && (err != nil || len(bases) != 2 || bases[0].Level != "emacs@0" || bases[1].Level != "emacs@1") {
			t.Errorf("bases: %v, %v", bases, err)
		}
		if t.Failed() {
			t.Fatalf("the helper was killed before %v", at)
		}
	}
	t.Logf("%d kill points, the view was there after %d of them; %v", points, mounted, time.Since(start))
	if points < len(whole.calls)*9/10 {
		t.Errorf("killed at %d points, but the first run had %d", points, len(whole.calls))
	}
}

// wantMode checks the mode and the owner of the directories: those of the layers that
// mkfs.erofs makes here, or a user's.
func (r *rig) wantMode(mode uint32, owner testenv.User, dirs ...string) {
	r.t.Helper()
	for _, dir := range dirs {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil || st.Mode != unix.S_IFDIR|mode || st.Uid != owner.UID || st.Gid != owner.GID {
			r.t.Errorf("%s: mode %o, owner %d:%d, %v; want %o, %d:%d", dir, st.Mode, st.Uid, st.Gid, err, unix.S_IFDIR|mode, owner.UID, owner.GID)
		}
	}
}
