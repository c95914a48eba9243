package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"
	"golang.org/x/sys/unix"
)

const (
	slapdBase   = "dc=example,dc=org"
	slapdRootDN = "cn=admin," + slapdBase

	// slapdStartLimit bounds a start when the caller's context does not.
	slapdStartLimit = 30 * time.Second
	// slapdLoadLimit does where the database is filled first.
	slapdLoadLimit = 5 * time.Minute
	// slapdRequestLimit bounds each connection that the methods of Slapd make.
	slapdRequestLimit = 30 * time.Second
	// slapdStopLimit is how long a slapd may take to end after SIGTERM.
	slapdStopLimit = 10 * time.Second
)

// SlapdOptions says how StartSlapd runs the server. The zero value is a server
// without TLS that logs its operations.
type SlapdOptions struct {
	// TLS adds an ldaps listener, and StartTLS on the plain one, with a
	// certificate for 127.0.0.1 and localhost from a CA made for this server.
	TLS bool
	// VerifyClient is slapd's TLSVerifyClient, such as "try" or "demand", for
	// certificates from that CA; see [Slapd.ClientCertificate]. Default: "never".
	VerifyClient string
	// LogLevel is slapd's -d argument. The default is "stats", which Searches
	// needs; Unindexed needs "stats,filter"; a benchmark that does not count sets
	// "none".
	LogLevel string
	// Load is an LDIF file whose entries the database has from the start, for more of
	// them than Add has patience for (slapadd(8)).
	Load string

	replication replication // see StartProvider and StartReplica
}

// Slapd is a running OpenLDAP server with a configuration and a database of
// its own. Until [Slapd.Restrict] anybody may read, and RootDN may write. The database starts empty: the
// first entry to Add is Base itself.
//
// The methods may be used by several goroutines at once.
type Slapd struct {
	URI    string // ldap://127.0.0.1:PORT
	LDAPS  string // ldaps://127.0.0.1:PORT, empty without TLS
	LDAPI  string // ldapi://%2Fpath%2Fto%2Fsocket
	CAFile string // CA certificate in PEM, empty without TLS
	Base   string // suffix of the database
	RootDN string
	RootPW string

	// LogFile receives what slapd logs.
	LogFile string

	socket    string
	schemaDir string
	ca        *authority // nil without TLS
	counting  bool
	argv      []string // what runs, to run it again
	process   *os.Process
	exited    chan struct{} // closed once the process has ended and is reaped
	exitErr   error         // why it ended; read it after exited is closed

	mu      sync.Mutex // serialises Stop
	stopped bool
}

// StartSlapd starts a slapd with its files in dir, which must be empty and
// private to it, and with levelfs.ldif from schemaDir beside the schemas of the
// distribution. It returns when the server answers. ctx and a limit of 30
// seconds bound the start only; the server then runs until Stop, or until this
// process dies.
//
// If slapd is not installed the error wraps exec.ErrNotFound. The path of dir
// must leave room for a socket address: 108 bytes in all.
func StartSlapd(ctx context.Context, dir, schemaDir string, o SlapdOptions) (*Slapd, error) {
	limit := slapdStartLimit
	if o.Load != "" {
		limit = slapdLoadLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	programs, err := findSlapd()
	if err != nil {
		return nil, fmt.Errorf("start slapd: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("start slapd: %w", err)
	}
	if schemaDir, err = filepath.Abs(schemaDir); err != nil {
		return nil, fmt.Errorf("start slapd: %w", err)
	}
	if o.LogLevel == "" {
		o.LogLevel = "stats"
	}

	s := &Slapd{
		Base:      slapdBase,
		RootDN:    slapdRootDN,
		RootPW:    rand.Text(),
		LogFile:   filepath.Join(dir, "slapd.log"),
		socket:    filepath.Join(dir, "ldapi"),
		schemaDir: schemaDir,
		counting:  strings.Contains(o.LogLevel, "stats"),
	}
	s.LDAPI = "ldapi://" + url.PathEscape(s.socket)
	if limit := len(unix.RawSockaddrUnix{}.Path) - 1; len(s.socket) > limit {
		return nil, fmt.Errorf("start slapd: %q is longer than the %d bytes of a socket address", s.socket, limit)
	}

	c := slapdConfig{dir: dir, schemaDir: schemaDir, rootPW: s.RootPW, replication: o.replication}
	if o.TLS {
		if s.ca, c.tls, err = writeTLSFiles(dir); err != nil {
			return nil, fmt.Errorf("start slapd: %w", err)
		}
		s.CAFile, c.verifyClient = c.tls.ca, o.VerifyClient
	}
	if err := c.build(ctx, programs.slapadd); err != nil {
		return nil, fmt.Errorf("start slapd: %w", err)
	}
	if o.Load != "" {
		if err := c.load(ctx, programs.slapadd, o.Load); err != nil {
			return nil, fmt.Errorf("start slapd: %w", err)
		}
	}

	// slapd cannot pick a port by itself, and one found free may be taken
	// before slapd binds it: try another then.
	for tries := 5; ; tries-- {
		err := s.start(ctx, programs.slapd, c.confDir(), o)
		if err == nil {
			return s, nil
		}
		if tries == 1 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("start slapd: %w", err)
		}
	}
}

// slapdPrograms are the paths of OpenLDAP's server programs.
type slapdPrograms struct{ slapd, slapadd string }

func findSlapd() (p slapdPrograms, err error) {
	if p.slapd, err = lookPath("slapd"); err != nil {
		return p, err
	}
	p.slapadd, err = lookPath("slapadd")
	return p, err
}

// start runs slapd on free ports and waits until it answers. The error wraps
// EADDRINUSE if one of the ports was taken meanwhile.
func (s *Slapd) start(ctx context.Context, program, confDir string, o SlapdOptions) error {
	plain, err := freeAddr(ctx)
	if err != nil {
		return err
	}
	s.URI = "ldap://" + plain
	listeners := []string{s.URI, s.LDAPI}
	if o.TLS {
		secure, err := freeAddr(ctx)
		if err != nil {
			return err
		}
		s.LDAPS = "ldaps://" + secure
		listeners = append(listeners, s.LDAPS)
	}
	return s.run(ctx, program, confDir, o.LogLevel, listeners)
}

// run starts slapd and waits until it answers; on error no process is left.
func (s *Slapd) run(ctx context.Context, program, confDir, logLevel string, listeners []string) error {
	// -d keeps slapd in the foreground.
	return s.launch(ctx, program, "-F", confDir, "-h", strings.Join(listeners, " "), "-d", logLevel)
}

// launch starts the process and waits until it answers; on error no process is
// left.
func (s *Slapd) launch(ctx context.Context, argv ...string) error {
	log, err := os.Create(s.LogFile)
	if err != nil {
		return err
	}
	defer log.Close() // slapd has its own descriptor

	s.argv = argv
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = filepath.Dir(s.LogFile)
	cmd.Env = append(os.Environ(), "LDAPNOINIT=1") // the host's ldap.conf is not ours
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // an interrupt from the terminal is for us, we stop slapd
		Pdeathsig: syscall.SIGKILL,
	}

	started := make(chan error, 1)
	s.exited = make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, not the
		// process (prctl(2)): keep that thread until slapd has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			s.exitErr = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process = cmd.Process

	if err := s.awaitReady(ctx); err != nil {
		return errors.Join(err, s.end(syscall.SIGKILL))
	}
	return nil
}

// awaitReady waits until slapd has taken a bind on its socket. The socket lies
// in our directory, so nobody else answers; slapd opens all its listeners
// before it serves one; and a bind does not count as a search.
func (s *Slapd) awaitReady(ctx context.Context) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		c, err := s.dial(ctx)
		if err == nil {
			return c.Close()
		}
		select {
		case <-s.exited:
			return s.deathError()
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w (%w); its log ends:\n%s", ctx.Err(), err, s.logTail())
		case <-time.After(wait):
		}
	}
}

// deathError tells why slapd ended unasked.
func (s *Slapd) deathError() error {
	tail := s.logTail()
	if strings.Contains(tail, "Address already in use") || strings.Contains(tail, ds389AddressInUse) {
		return fmt.Errorf("slapd: %w", syscall.EADDRINUSE)
	}
	if s.exitErr == nil {
		return fmt.Errorf("slapd ended; its log ends:\n%s", tail)
	}
	return fmt.Errorf("slapd ended: %w; its log ends:\n%s", s.exitErr, tail)
}

// logTail returns the last lines of the log, for error messages.
func (s *Slapd) logTail() string {
	log, err := os.ReadFile(s.LogFile)
	if err != nil {
		return err.Error()
	}
	if limit := 2000; len(log) > limit {
		log = log[len(log)-limit:]
	}
	return string(log)
}

// dial connects to the socket and binds as RootDN.
func (s *Slapd) dial(ctx context.Context) (*ldap.Conn, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Bind(s.RootDN, s.RootPW); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// connect connects to the socket. The whole connection ends at a deadline, so that
// no request on it can hang.
func (s *Slapd) connect(ctx context.Context) (*ldap.Conn, error) {
	var d net.Dialer
	deadline := time.Now().Add(slapdRequestLimit)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	d.Deadline = deadline
	nc, err := d.DialContext(ctx, "unix", s.socket)
	if err != nil {
		return nil, err
	}
	if err := nc.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	c := ldap.NewConn(nc, false)
	c.Start()
	return c, nil
}

// Add adds the entries of an LDIF text, in their order, as RootDN. It stops at
// the first that the server refuses; the error then wraps the *ldap.Error.
// Change records other than "changetype: add" are refused: see Modify.
func (s *Slapd) Add(text string) error {
	records, err := ldif.Parse(text)
	if err != nil {
		return fmt.Errorf("add to slapd: %w", err)
	}
	c, err := s.dial(context.Background())
	if err != nil {
		return fmt.Errorf("add to slapd: %w", err)
	}
	defer c.Close()
	for _, r := range records.Entries {
		add := addRequest(r)
		if add == nil {
			return errors.New("add to slapd: a record neither is an entry nor adds one")
		}
		if err := c.Add(add); err != nil {
			return fmt.Errorf("add %q to slapd: %w", add.DN, err)
		}
	}
	return nil
}

// addRequest is what adds the record's entry, nil if it is another change. Not
// ldif's own Apply: it dereferences a nil pointer on content records.
func addRequest(r *ldif.Entry) *ldap.AddRequest {
	if r.Entry == nil {
		return r.Add
	}
	add := ldap.NewAddRequest(r.Entry.DN, nil)
	for _, a := range r.Entry.Attributes {
		add.Attribute(a.Name, a.Values)
	}
	return add
}

// Modify replaces the values of attribute attr in the entry dn, as RootDN.
// Without values it removes the attribute.
func (s *Slapd) Modify(dn, attr string, values ...string) error {
	c, err := s.dial(context.Background())
	if err != nil {
		return fmt.Errorf("modify %q: %w", dn, err)
	}
	defer c.Close()
	m := ldap.NewModifyRequest(dn, nil)
	m.Replace(attr, values)
	if err := c.Modify(m); err != nil {
		return fmt.Errorf("modify %q: %w", dn, err)
	}
	return nil
}

// Searches returns how many search operations slapd has begun since it
// started. slapd logs an operation before it answers, so each search that a
// client has seen the end of is counted; Slapd's own methods make none. It is
// an error if the log level has no "stats".
func (s *Slapd) Searches() (int, error) {
	if !s.counting {
		return 0, errors.New("count searches: slapd was not started with log level stats")
	}
	log, err := os.ReadFile(s.LogFile)
	if err != nil {
		return 0, fmt.Errorf("count searches: %w", err)
	}
	// 6543210f.0a1b2c3d 0x7f... conn=1000 op=1 SRCH base="..." scope=2 deref=0 filter="..."
	// and, for the same operation, another line "SRCH attr=...".
	search := regexp.MustCompile(`(?m)^\S+ \S+ conn=\d+ op=\d+ SRCH base=`)
	return len(search.FindAllIndex(log, -1)), nil
}

// PID returns slapd's process ID.
func (s *Slapd) PID() int { return s.process.Pid }

// Pause stops the process with SIGSTOP: connections are still accepted, by the
// kernel, but nothing is answered. It returns when all of slapd's threads
// stand still.
func (s *Slapd) Pause() error {
	if err := s.process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause slapd: %w", err)
	}
	// kill(2) does not wait for the threads. A stop is reported when the last
	// of them has stopped; WNOWAIT leaves that report for a second Pause.
	deadline := time.Now().Add(slapdStopLimit)
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, s.process.Pid, &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("pause slapd: waitid: %w", err)
		case info.Signo != 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("pause slapd: still running after %v", slapdStopLimit)
		}
		select {
		case <-s.exited:
			return fmt.Errorf("pause slapd: %w", s.deathError())
		case <-time.After(wait):
		}
	}
}

// Resume lets a paused slapd go on; it then answers what has come in
// meanwhile.
func (s *Slapd) Resume() error {
	if err := s.process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("resume slapd: %w", err)
	}
	return nil
}

// Stop ends slapd, also a paused one, and waits until it is gone; the files
// stay for the caller to remove. It is an error if slapd had ended before, or
// had to be killed because it did not end within 10 seconds. Another Stop does
// nothing.
func (s *Slapd) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	select {
	case <-s.exited:
		return fmt.Errorf("stop slapd: %w", s.deathError())
	default:
	}
	if err := s.end(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop slapd: %w", err)
	}
	return nil
}

// end sends sig and waits for the process to be gone; if that takes too long,
// it kills it. A process that has ended already is no error. The signals go to
// the process that we started, never to another with its number: os.Process
// knows when it is reaped.
func (s *Slapd) end(sig syscall.Signal) error {
	// A stopped process takes SIGTERM only once it goes on.
	for _, sig := range []os.Signal{sig, syscall.SIGCONT} {
		if err := s.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(slapdStopLimit):
	}
	if err := s.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.exited
	return fmt.Errorf("killed after %v; its log ends:\n%s", slapdStopLimit, s.logTail())
}

// freeAddr returns a loopback address that nobody listened on just now.
func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
