package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
)

// quick is a [watch] table that lets a test not wait.
const quick = "[watch]\nsettle = \"20ms\"\njitter = \"1ms\"\nprobe = \"10m\"\n"

// A watching is a levelfs watch that runs.
type watching struct {
	cmd *exec.Cmd
	t   *testing.T
	mu  sync.Mutex
	out bytes.Buffer // both outputs
	end func() error
}

func (w *watching) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

func (w *watching) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.String()
}

// watch starts it, and waits until systemd is told that it has begun. It ends with the
// test at the latest.
func watch(t *testing.T, m *testenv.Machine, args ...string) *watching {
	t.Helper()
	socket := filepath.Join(socketDir(t), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(testenv.WaitLimit)); err != nil {
		t.Fatal(err)
	}
	w := &watching{t: t, cmd: exec.Command(m.Levelfs, append([]string{"watch", "-v"}, args...)...)}
	w.cmd.Env = append(m.Env(), "NOTIFY_SOCKET="+socket)
	w.cmd.Stdout, w.cmd.Stderr = w, w
	w.cmd.WaitDelay = time.Second
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.end = sync.OnceValue(w.cmd.Wait)
	t.Cleanup(w.stop)
	buffer := make([]byte, 100)
	n, err := l.Read(buffer)
	if err != nil || string(buffer[:n]) != "READY=1" {
		t.Fatalf("told %q, %v; it says %s", buffer[:n], err, w.said())
	}
	return w
}

// stop ends it as systemd does.
func (w *watching) stop() {
	w.t.Helper()
	_ = w.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	if err := w.end(); err != nil {
		w.t.Errorf("%v; it says %s", err, w.said())
	}
}

// wait waits until it has said that so many times.
func (w *watching) wait(text string, times int) {
	w.t.Helper()
	testenv.WaitFor(w.t, text, func() error {
		if got := w.said(); strings.Count(got, text) < times {
			return fmt.Errorf("it says %s", got)
		}
		return nil
	})
}

// waitFile waits for the content of a file.
func waitFile(t *testing.T, path, want string) {
	t.Helper()
	testenv.WaitFor(t, path, func() error {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			return fmt.Errorf("%q, %v; want %q", got, err, want)
		}
		return nil
	})
}

// TestWatch: an assignment at the server changes the mounted view, without any command,
// also after the server was away; and the host reports it.
func TestWatch(t *testing.T) {
	f := newFleet(t, "canary-1", "early-1")
	g := f.guest("canary-1", quick)
	f.mount(g)
	w := watch(t, g.Machine)
	w.wait("tells of changes", 1)
	assign := func(level string) {
		t.Helper()
		levelfs(t, f.admin, 0, "profile set canary emacs="+level)
		waitFile(t, g.seen+"/which", level)
		testenv.WaitFor(t, "the report", func() error {
			got, err := f.slapd.Values(testenv.HostDN("canary-1"), "levelfsReport")
			if said := timeless(got); err != nil || len(said) != 1 || said[0] != "emacs@"+level+" ok" {
				return fmt.Errorf("%q, %v", got, err)
			}
			return nil
		})
	}
	assign("2")
	assign("1")

	// The server is gone for a while, and changes are made in the meantime.
	if err := f.slapd.Kill(); err != nil {
		t.Fatal(err)
	}
	w.wait("it is tried again", 1)
	if err := f.slapd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	levelfs(t, f.admin, 0, "profile set canary emacs=2")
	waitFile(t, g.seen+"/which", "2")
	w.wait("tells of changes", 2)
	assign("1")
	w.stop()
}

// TestWatchTold: a host is told of what decides about it, and not of other hosts, levels
// and roll-outs.
func TestWatchTold(t *testing.T) {
	f := newFleet(t, "canary-1", "early-1")
	source := newSource(t, ldapsource.Config{URIs: []string{f.slapd.URI}, Base: f.slapd.Base, BindDN: testenv.ReaderDN, PasswordFile: f.password})
	terms, attrs := ldapmap.Deciding("canary-1", []string{"rob"})
	told := make(map[string]int)
	ctx, cancel := context.WithTimeout(t.Context(), testenv.WaitLimit)
	defer cancel()
	changing, begun := make(chan error, 1), false
	last := testenv.ComponentDN("emacs")
	err := source.Watch(ctx, ldapmap.Watch{Terms: terms, Attrs: attrs, Probe: time.Hour,
		Ready: func() {
			clear(told) // that is what there was to begin with
			begun = true
			go func() {
				changing <- errors.Join(
					f.slapd.Modify(testenv.HostDN("early-1"), "levelfsReport", "x"),
					f.slapd.Modify(testenv.HostDN("early-1"), "levelfsAssignment", "emacs=2"),
					f.slapd.Modify(testenv.LevelDN("emacs", "2"), "description", "x"),
					f.slapd.Modify(testenv.LayerDN("emacs-2"), "description", "x"),
					f.slapd.Add("dn: cn=rollout,"+last+"\nobjectClass: levelfsRollout\ncn: rollout\nlevelfsRolloutLevel: emacs@2\nlevelfsRing: 00:canary\nlevelfsRolloutState: done\n"),
					f.slapd.Modify(testenv.HostDN("canary-1"), "levelfsAssignment", "emacs=2"),
					f.slapd.Modify(testenv.HostDN("canary-1"), "levelfsAssignment"),
					f.slapd.Modify(testenv.ProfileDN("early"), "levelfsAssignment", "emacs=2"),
					f.slapd.Add("dn: ou=people,"+f.slapd.Base+"\nobjectClass: organizationalUnit\nou: people\n\ndn: "+testenv.UserDN("ann")+
						"\nobjectClass: inetOrgPerson\nobjectClass: levelfsCaller\nuid: ann\ncn: Ann\nsn: A\n\ndn: "+testenv.UserDN("rob")+
						"\nobjectClass: inetOrgPerson\nobjectClass: levelfsCaller\nuid: rob\ncn: Rob\nsn: R\n\ndn: "+testenv.GroupDN("g")+
						"\nobjectClass: groupOfNames\nobjectClass: levelfsCaller\ncn: g\nmember: "+testenv.HostDN("canary-1")+"\n"),
					f.slapd.Modify(testenv.GroupDN("g"), "member", testenv.HostDN("early-1")),
					f.slapd.Modify(last, "levelfsDefault", "2"),
				)
			}()
		},
		Changed: func(e ldapmap.Entry, gone bool) {
			told[e.DN]++
			if e.DN == last && begun {
				cancel()
			}
		}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("told of %v, and then %v", told, err)
	}
	if err := <-changing; err != nil {
		t.Fatal(err)
	}
	want := map[string]int{testenv.HostDN("canary-1"): 2, testenv.ProfileDN("early"): 1, testenv.UserDN("rob"): 1, testenv.GroupDN("g"): 2, last: 1}
	if !maps.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

// TestWatchBurst: many changes in a row are few refreshes.
func TestWatchBurst(t *testing.T) {
	f := newFleet(t, "canary-1")
	g := f.guest("canary-1", strings.Replace(quick, "20ms", "2s", 1))
	f.mount(g)
	w := watch(t, g.Machine)
	w.wait("tells of changes", 1)
	const changes = 60
	for n := range changes {
		if err := f.slapd.Modify(testenv.ProfileDN("canary"), "levelfsAssignment", fmt.Sprintf("emacs=%d", 1+n%2)); err != nil {
			t.Fatal(err)
		}
	}
	waitFile(t, g.seen+"/which", "2")
	if err := f.slapd.Modify(testenv.ProfileDN("canary"), "levelfsAssignment", "emacs=1"); err != nil {
		t.Fatal(err)
	}
	waitFile(t, g.seen+"/which", "1")
	w.stop()
	// Each of them is one that has changed the view: at most every two seconds.
	if n := strings.Count(w.said(), "was emacs@"); n > 4 {
		t.Errorf("%d changes of the view after %d of the inventory: %s", n, changes, w.said())
	}
}

// TestWatchRetries: what could not be changed is tried again; a dry run changes nothing,
// and --once ends.
func TestWatchRetries(t *testing.T) {
	f := newFleet(t, "canary-1")
	g := f.guest("canary-1", quick)
	f.mount(g)
	once := watch(t, g.Machine, "--once", "--dry-run")
	once.wait("tells of changes", 1)
	levelfs(t, f.admin, 0, "profile set canary emacs=2")
	if err := once.end(); err != nil || !strings.Contains(once.said(), "would be emacs@2, is emacs@1") {
		t.Errorf("%v: %s", err, once.said())
	}
	wantFile(t, g.seen+"/which", "1")

	open, err := os.Create(filepath.Join(g.seen, "open"))
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, g.Machine)
	w.wait("it is tried again in 1s", 1)
	wantFile(t, g.seen+"/which", "1")
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	waitFile(t, g.seen+"/which", "2")
	w.stop()
}

// TestWatchFiles: LDIF files are watched as well.
func TestWatchFiles(t *testing.T) {
	r := newSwitchRig(t, "")
	r.Configure(quick)
	r.mount()
	w := watch(t, r.Machine)
	w.wait("tells of changes", 1)
	for _, level := range []string{"2", "1"} {
		r.assign(level)
		waitFile(t, r.target+"/which", level)
	}
	w.stop()
	r.umount(r.target)
}

// A silencer hands on what comes in to a server, until it is told to be silent.
type silencer struct {
	net.Listener
	mu     sync.Mutex
	silent bool
}

func newSilencer(t *testing.T, to string) *silencer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &silencer{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				return
			}
			go r.copy(out, in)
			go r.copy(in, out)
		}
	}()
	return r
}

func (r *silencer) copy(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		r.mu.Lock()
		silent := r.silent
		r.mu.Unlock()
		if silent {
			_, _ = io.Copy(io.Discard, from)
			return
		}
		if err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (r *silencer) hush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = true
}

// TestWatchSilent: a server that does not say anything any more, on a connection that
// stays, is noticed; one that says nothing because nothing changes is not given up.
func TestWatchSilent(t *testing.T) {
	f := newFleet(t, "canary-1")
	r := newSilencer(t, strings.TrimPrefix(f.slapd.URI, "ldap://"))
	source := newSource(t, ldapsource.Config{URIs: []string{"ldap://" + r.Addr().String()}, Base: f.slapd.Base, BindDN: testenv.ReaderDN, PasswordFile: f.password, Timeout: 3 * time.Second})
	terms, attrs := ldapmap.Deciding("canary-1", nil)
	searches := func() int {
		n, err := f.slapd.Searches()
		if err != nil {
			t.Error(err)
		}
		return n
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- source.Watch(t.Context(), ldapmap.Watch{Terms: terms, Attrs: attrs, Probe: 20 * time.Millisecond,
			Ready: func() { close(ready) }, Changed: func(ldapmap.Entry, bool) {}})
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	before := searches()
	testenv.WaitFor(t, "probes", func() error {
		if n := searches() - before; n < 5 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	select {
	case err := <-ended:
		t.Fatalf("a server that answers: %v", err)
	default:
	}
	r.hush()
	select {
	case err := <-ended:
		if kind(err) != "unavailable" {
			t.Errorf("%v", err)
		}
	case <-time.After(testenv.WaitLimit):
		t.Fatal("a server that is silent is not noticed")
	}
}

// TestWatchBudget: what a server may deliver to a lookup does not end a watch that has
// been told more than that by and by; and a second watch is told what has changed only.
func TestWatchBudget(t *testing.T) {
	f := newFleet(t, "canary-1")
	source := newSource(t, ldapsource.Config{URIs: []string{f.slapd.URI}, Base: f.slapd.Base, BindDN: testenv.ReaderDN, PasswordFile: f.password})
	terms, _ := ldapmap.Deciding("canary-1", nil)
	follow := func(attrs []string, ready func(), enough func(told, values int) bool) (told, values int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), testenv.WaitLimit)
		defer cancel()
		err := source.Watch(ctx, ldapmap.Watch{Terms: terms, Attrs: attrs, Probe: time.Hour, Ready: ready,
			Changed: func(e ldapmap.Entry, _ bool) {
				told++
				values += len(e.Attrs["levelfshistory"])
				if enough != nil && enough(told, values) {
					cancel()
				}
			}})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d entries and %d values: %v", told, values, err)
		}
		return told, values
	}
	// 3000 values of 200 bytes, 30 times: twice the bytes of a lookup.
	history := make([]string, 3000)
	for n := range history {
		history[n] = fmt.Sprintf("%06d %s", n+1, strings.Repeat("x", 190))
	}
	changing := make(chan error, 1)
	const rounds = 30
	_, values := follow([]string{"objectClass", "levelfsHistory"}, func() {
		go func() {
			for n := range rounds {
				if err := f.slapd.Modify(testenv.ProfileDN("canary"), "levelfsHistory", append([]string{fmt.Sprint(n)}, history...)...); err != nil {
					changing <- err
					return
				}
			}
			changing <- nil
		}()
	}, func(_, values int) bool { return values >= rounds*len(history) })
	if err := <-changing; err != nil || values < rounds*len(history) {
		t.Errorf("%d values, %v", values, err)
	}
	// With the cookie nothing is told again that was told.
	if err := f.slapd.Modify(testenv.ProfileDN("canary"), "levelfsHistory"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testenv.WaitLimit)
	defer cancel()
	var told []string
	err := source.Watch(ctx, ldapmap.Watch{Terms: terms, Attrs: []string{"objectClass", "levelfsHistory"}, Probe: time.Hour, Ready: cancel,
		Changed: func(e ldapmap.Entry, _ bool) { told = append(told, e.DN) }})
	if !errors.Is(err, context.Canceled) || len(told) != 1 || told[0] != testenv.ProfileDN("canary") {
		t.Errorf("told of %q, %v", told, err)
	}
}

// TestWatchNone: a server without content synchronisation says so, at once.
func TestWatchNone(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{}, busyInventory())
	source := newSource(t, ldapsource.Config{URIs: []string{slapd.URI}, Base: slapd.Base})
	terms, attrs := ldapmap.Deciding("lnx01", nil)
	err := source.Watch(t.Context(), ldapmap.Watch{Terms: terms, Attrs: attrs, Probe: time.Hour, Ready: func() {}, Changed: func(ldapmap.Entry, bool) {}})
	var none *ldapmap.NoWatchError
	if !errors.As(err, &none) || !strings.Contains(err.Error(), slapd.URI) {
		t.Errorf("%v", err)
	}
}

// TestWatchDS389: 389 Directory Server tells of changes, with its plugins for it.
func TestWatchDS389(t *testing.T) {
	d := startDS389(t, serverLDIF())
	for _, plugin := range []string{"Retro Changelog Plugin", "Content Synchronization"} {
		if err := d.Modify("cn="+plugin+",cn=plugins,cn=config", "nsslapd-pluginEnabled", "on"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := d.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	source := newSource(t, ldapsource.Config{URIs: []string{d.URI}, Base: d.Base, BindDN: readerDN, PasswordFile: secret(t, readerPassword)})
	terms, attrs := ldapmap.Deciding("lnx01", nil)
	ctx, cancel := context.WithTimeout(t.Context(), testenv.WaitLimit)
	defer cancel()
	changing, begun := make(chan error, 1), false
	var told []string
	err := source.Watch(ctx, ldapmap.Watch{Terms: terms, Attrs: attrs, Probe: time.Hour,
		Ready: func() {
			begun = true
			go func() {
				changing <- errors.Join(d.Modify(testenv.HostDN("lnx05"), "description", "x"), d.Modify(testenv.ProfileDN("p1"), "levelfsAssignment", "emacs=30.1-1"))
			}()
		},
		Changed: func(e ldapmap.Entry, _ bool) {
			if begun {
				told = append(told, e.DN)
				cancel()
			}
		}})
	if !errors.Is(err, context.Canceled) || len(told) != 1 || told[0] != testenv.ProfileDN("p1") {
		t.Fatalf("told of %q, and then %v", told, err)
	}
	if err := <-changing; err != nil {
		t.Error(err)
	}
}
