package testenv

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/sys/unix"
)

// startSlapd starts a server that the end of the test stops.
func startSlapd(t *testing.T, o SlapdOptions) *Slapd {
	t.Helper()
	Require(t, "slapd")
	s, err := StartSlapd(t.Context(), socketDir(t), schemaDir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// socketDir is t.TempDir with a path that is short whatever the name of the
// test and TMPDIR: a socket address has but 108 bytes.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "slapd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// addExample loads packaging/schema/example.ldif.
func addExample(t *testing.T, s *Slapd) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(schemaDir, "example.ldif"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(string(text)); err != nil {
		t.Fatal(err)
	}
}

// anonymous connects without a bind.
func anonymous(t *testing.T, uri string, opts ...ldap.DialOpt) *ldap.Conn {
	t.Helper()
	c, err := ldap.DialURL(uri, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetTimeout(10 * time.Second)
	return c
}

func request(base, filter string) *ldap.SearchRequest {
	return ldap.NewSearchRequest(base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 10, false, filter, nil, nil)
}

// search returns the DNs that match.
func search(t *testing.T, c *ldap.Conn, base, filter string) []string {
	t.Helper()
	r, err := c.Search(request(base, filter))
	if err != nil {
		t.Fatalf("search %s: %v", filter, err)
	}
	var dns []string
	for _, e := range r.Entries {
		dns = append(dns, e.DN)
	}
	slices.Sort(dns)
	return dns
}

func TestSlapdExample(t *testing.T) {
	s := startSlapd(t, SlapdOptions{})
	addExample(t, s)

	for name, uri := range map[string]string{"tcp": s.URI, "ldapi": s.LDAPI} {
		t.Run(name, func(t *testing.T) {
			c := anonymous(t, uri)
			for _, q := range []struct {
				filter string
				want   []string
			}{
				{"(levelfsAssignment=emacs=*)", []string{
					"cn=base,ou=profiles,dc=example,dc=org",
					"cn=testguests,ou=groups,dc=example,dc=org",
					"uid=rob,ou=people,dc=example,dc=org",
				}},
				{"(&(objectClass=levelfsCaller)(member=cn=lnx01.example.org,ou=hosts,dc=example,dc=org))", []string{
					"cn=testguests,ou=groups,dc=example,dc=org",
				}},
				{"(levelfsProfileRef=BASE)", []string{"cn=lnx01.example.org,ou=hosts,dc=example,dc=org"}},
				{"(levelfsAssignment=Emacs=*)", nil}, // values keep their case
				{"(&(objectClass=levelfsLevel)(cn=emacs@29.4-1))", []string{
					"cn=emacs@29.4-1,cn=emacs,ou=components,dc=example,dc=org",
				}},
				{"(levelfsLayerRef=*:emacs-common)", []string{
					"cn=emacs@29.4-1,cn=emacs,ou=components,dc=example,dc=org",
					"cn=emacs@30.1-1,cn=emacs,ou=components,dc=example,dc=org",
				}},
				{"(&(objectClass=levelfsLayer)(levelfsSize>=41943040))", []string{
					"cn=emacs-29.4-1,ou=layers,dc=example,dc=org",
					"cn=emacs-30.1-1,ou=layers,dc=example,dc=org",
				}},
				{"(levelfsNotBefore<=20260601000000Z)", []string{
					"cn=emacs@29.4-1,cn=emacs,ou=components,dc=example,dc=org",
				}},
			} {
				if got := search(t, c, s.Base, q.filter); !slices.Equal(got, q.want) {
					t.Errorf("%s: got %q, want %q", q.filter, got, q.want)
				}
			}
		})
	}
}

// TestSlapdSchemaViolations has the server refuse what the schema forbids.
func TestSlapdSchemaViolations(t *testing.T) {
	s := startSlapd(t, SlapdOptions{})
	addExample(t, s)

	for _, c := range []struct {
		name, ldif string
		want       uint16
	}{
		{"level without layers", `
dn: cn=emacs@1-1,cn=emacs,ou=components,dc=example,dc=org
objectClass: levelfsLevel
cn: emacs@1-1
levelfsState: draft
`, ldap.LDAPResultObjectClassViolation},
		{"layer without a file system", `
dn: cn=some,ou=layers,dc=example,dc=org
objectClass: levelfsLayer
cn: some
`, ldap.LDAPResultObjectClassViolation},
		{"assignment on an entry that is no caller", `
dn: cn=lnx02.example.org,ou=hosts,dc=example,dc=org
objectClass: device
cn: lnx02.example.org
levelfsAssignment: emacs=29.4-1
`, ldap.LDAPResultObjectClassViolation},
		{"two defaults", `
dn: cn=gcc,ou=components,dc=example,dc=org
objectClass: levelfsComponent
cn: gcc
levelfsDefault: 13.2-1
levelfsDefault: 14.1-1
`, ldap.LDAPResultConstraintViolation},
		{"size that is no number", `
dn: cn=some,ou=layers,dc=example,dc=org
objectClass: levelfsLayer
cn: some
levelfsFSType: erofs
levelfsSize: 4M
`, ldap.LDAPResultInvalidAttributeSyntax},
		{"caller without another class", `
dn: cn=lnx02.example.org,ou=hosts,dc=example,dc=org
objectClass: levelfsCaller
cn: lnx02.example.org
`, ldap.LDAPResultObjectClassViolation},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := s.Add(c.ldif)
			if !ldap.IsErrorWithCode(err, c.want) {
				t.Errorf("got %v, want LDAP result %d", err, c.want)
			}
		})
	}
	// The same level with a layer is fine: it was the layers that were missed.
	if err := s.Add(`
dn: cn=emacs@1-1,cn=emacs,ou=components,dc=example,dc=org
objectClass: levelfsLevel
cn: emacs@1-1
levelfsState: draft
levelfsLayerRef: 00:emacs-common
`); err != nil {
		t.Error(err)
	}
}

// TestSlapdUnindexed: which searches levelfs makes is for the tests of levelfs.
func TestSlapdUnindexed(t *testing.T) {
	s := startSlapd(t, SlapdOptions{LogLevel: "stats,filter"})
	addExample(t, s)
	c := anonymous(t, s.URI)
	search(t, c, s.Base, "(&(objectClass=levelfsCaller)(|(cn=lnx01.example.org)(member=cn=x)(cn=emacs@*)(levelfsMountPoint=*)))")
	if unindexed, err := s.Unindexed(); len(unindexed) != 0 || err != nil {
		t.Errorf("an indexed search: %q, %v", unindexed, err)
	}
	search(t, c, s.Base, "(levelfsSize=1)")
	if unindexed, err := s.Unindexed(); len(unindexed) != 1 || err != nil || !strings.Contains(unindexed[0], "(levelfsSize)") {
		t.Errorf("an unindexed search: %q, %v", unindexed, err)
	}
	if unindexed, err := startSlapd(t, SlapdOptions{}).Unindexed(); err == nil {
		t.Errorf("without a log of filters it knows of %q", unindexed)
	}
}

func readLog(t *testing.T, s *Slapd) string {
	t.Helper()
	log, err := os.ReadFile(s.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

func TestSlapdAccess(t *testing.T) {
	s := startSlapd(t, SlapdOptions{})
	addExample(t, s)
	const host = "cn=lnx01.example.org,ou=hosts,dc=example,dc=org"

	if err := s.Modify(host, "levelfsAssignment", "emacs=30.1-1", "gcc=13.2-1"); err != nil {
		t.Fatal(err)
	}
	c := anonymous(t, s.URI)
	if got := search(t, c, s.Base, "(&(levelfsAssignment=emacs=30.1-1)(levelfsAssignment=gcc=13.2-1))"); !slices.Equal(got, []string{host}) {
		t.Errorf("after Modify: %q", got)
	}
	if err := s.Modify(host, "levelfsAssignment"); err != nil {
		t.Fatal(err)
	}
	if got := search(t, c, host, "(levelfsAssignment=*)"); len(got) != 0 {
		t.Errorf("after Modify without values: %q", got)
	}

	m := ldap.NewModifyRequest(host, nil)
	m.Replace("levelfsAssignment", []string{"emacs=evil"})
	if err := c.Modify(m); err == nil {
		t.Error("anybody may write")
	}
	if err := s.Add("dn: " + host + "\nchangetype: delete\n"); err == nil {
		t.Error("Add takes a deletion")
	}
}

func TestSlapdSearches(t *testing.T) {
	s := startSlapd(t, SlapdOptions{})
	if n, err := s.Searches(); n != 0 || err != nil {
		t.Fatalf("searches after the start: %d, %v; want none", n, err)
	}
	addExample(t, s)

	const clients, each = 4, 25
	var running sync.WaitGroup
	for range clients {
		c := anonymous(t, s.URI)
		running.Go(func() {
			for range each {
				// What is searched for must not be taken for a log line.
				if _, err := c.Search(request(s.Base, "(cn=conn=1 op=1 SRCH base=)")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	if n, err := s.Searches(); n != clients*each || err != nil {
		t.Errorf("searches: %d, %v; want %d", n, err, clients*each)
	}
}

func TestSlapdSearchesNeedTheLog(t *testing.T) {
	s := startSlapd(t, SlapdOptions{LogLevel: "none"})
	if n, err := s.Searches(); err == nil {
		t.Errorf("without a log of operations %d searches were counted", n)
	}
	addExample(t, s)
	search(t, anonymous(t, s.URI), s.Base, "(cn=emacs)")
	if log := readLog(t, s); strings.Contains(log, "SRCH") {
		t.Errorf("operations are logged:\n%s", log)
	}
}

func TestSlapdTLS(t *testing.T) {
	s := startSlapd(t, SlapdOptions{TLS: true})
	addExample(t, s)
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in CAFile")
	}
	trusting := &tls.Config{RootCAs: ca, ServerName: "127.0.0.1"}
	distrusting := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	want := []string{"cn=base,ou=profiles,dc=example,dc=org"}

	t.Run("ldaps", func(t *testing.T) {
		c := anonymous(t, s.LDAPS, ldap.DialWithTLSConfig(trusting))
		if got := search(t, c, s.Base, "(cn=base)"); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		var unknown x509.UnknownAuthorityError
		if c, err := ldap.DialURL(s.LDAPS, ldap.DialWithTLSConfig(distrusting)); !errors.As(err, &unknown) {
			t.Errorf("without the CA: %v, %v", c, err)
		}
	})
	t.Run("StartTLS", func(t *testing.T) {
		c := anonymous(t, s.URI)
		if err := c.StartTLS(trusting); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.TLSConnectionState(); !ok {
			t.Error("the connection is not encrypted")
		}
		if got := search(t, c, s.Base, "(cn=base)"); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := anonymous(t, s.URI).StartTLS(distrusting); err == nil {
			t.Error("StartTLS works without the CA")
		}
	})
	t.Run("by name", func(t *testing.T) {
		// Dialled by address: a minimal machine has no name for it.
		anonymous(t, s.LDAPS, ldap.DialWithTLSConfig(&tls.Config{RootCAs: ca, ServerName: "localhost"}))
	})
}

func TestSlapdPause(t *testing.T) {
	s := startSlapd(t, SlapdOptions{})
	addExample(t, s)
	c := anonymous(t, s.URI)
	search(t, c, s.Base, "(cn=base)")

	for range 2 { // also when it is paused already
		if err := s.Pause(); err != nil {
			t.Fatal(err)
		}
	}
	before, err := s.Searches()
	if err != nil {
		t.Fatal(err)
	}
	c.SetTimeout(100 * time.Millisecond)
	if _, err := c.Search(request(s.Base, "(cn=base)")); !ldap.IsErrorWithCode(err, ldap.ErrorNetwork) {
		t.Errorf("search in a paused slapd: %v, want a time-out", err)
	}
	if after, err := s.Searches(); after != before || err != nil {
		t.Errorf("a paused slapd went from %d to %d searches (%v)", before, after, err)
	}

	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	c.SetTimeout(10 * time.Second)
	search(t, c, s.Base, "(cn=base)")

	// Stop, at the end of the test, must cope with a paused server.
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
}

func TestSlapdStop(t *testing.T) {
	Require(t, "slapd")
	for _, paused := range []bool{false, true} {
		t.Run(fmt.Sprintf("paused=%v", paused), func(t *testing.T) {
			s, err := StartSlapd(t.Context(), socketDir(t), schemaDir, SlapdOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if paused {
				if err := s.Pause(); err != nil {
					t.Error(err)
				}
			}
			pid := s.PID()
			if err := syscall.Kill(pid, 0); err != nil {
				t.Errorf("before Stop, process %d: %v", pid, err)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("after Stop, process %d: %v, want ESRCH", pid, err)
			}
			if left := processesIn(t, filepath.Dir(s.LogFile)); len(left) > 0 {
				t.Errorf("after Stop, processes of that directory: %q", left)
			}
			if c, err := ldap.DialURL(s.URI); err == nil {
				c.Close()
				t.Error("after Stop, the port is open")
			}
			if err := s.Stop(); err != nil {
				t.Errorf("second Stop: %v", err)
			}
		})
	}
}

// processesIn lists the command lines of processes that name dir.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		// A process may end between the two calls.
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), dir) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// TestSlapdDies checks that a server which ends by itself does not pass for
// one that was stopped.
func TestSlapdDies(t *testing.T) {
	Require(t, "slapd")
	s, err := StartSlapd(t.Context(), socketDir(t), schemaDir, SlapdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.exited
	if err := s.Pause(); err == nil {
		t.Error("Pause of a dead slapd succeeds")
	}
	if err := s.Stop(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Stop of a killed slapd: %v", err)
	}
}

func TestStartSlapdFails(t *testing.T) {
	Require(t, "slapd")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		dir    string
		schema string
		o      SlapdOptions
		want   string
	}{
		"no schema":  {t.Context(), socketDir(t), t.TempDir(), SlapdOptions{}, "levelfs.ldif"},
		"long path":  {t.Context(), filepath.Join(socketDir(t), strings.Repeat("x", 100)), schemaDir, SlapdOptions{}, "socket address"},
		"canceled":   {canceled, socketDir(t), schemaDir, SlapdOptions{}, "canceled"},
		"bad option": {t.Context(), socketDir(t), schemaDir, SlapdOptions{LogLevel: "nonsense"}, "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := StartSlapd(c.ctx, c.dir, c.schema, c.o)
			if err == nil {
				t.Error("it starts")
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
			if left := processesIn(t, c.dir); len(left) > 0 {
				t.Errorf("processes of that directory: %q", left)
			}
		})
	}
}

// TestSlapdPortTaken checks that start tells a port that is taken from other
// failures: StartSlapd then tries another.
func TestSlapdPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := startSlapd(t, SlapdOptions{})
	dir := socketDir(t)
	c := slapdConfig{dir: dir, schemaDir: schemaDir, rootPW: "secret"}
	if c.schemaDir, err = filepath.Abs(schemaDir); err != nil {
		t.Fatal(err)
	}
	programs, err := findSlapd()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.build(t.Context(), programs.slapadd); err != nil {
		t.Fatal(err)
	}
	second := &Slapd{RootDN: s.RootDN, RootPW: "secret", LogFile: filepath.Join(dir, "log"), socket: filepath.Join(dir, "ldapi")}
	err = second.run(t.Context(), programs.slapd, c.confDir(), "stats", []string{"ldap://" + taken.Addr().String()})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
}

// TestSlapdDiesWithParent kills a process that runs a slapd.
func TestSlapdDiesWithParent(t *testing.T) {
	Require(t, "slapd")
	if dir := os.Getenv("LEVELFS_TEST_SLAPD_DIR"); dir != "" {
		// This is the process to be killed.
		s, err := StartSlapd(t.Context(), dir, schemaDir, SlapdOptions{LogLevel: "none"})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(s.PID())
		select {}
	}
	dir := socketDir(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestSlapdDiesWithParent$")
	cmd.Env = append(os.Environ(), "LEVELFS_TEST_SLAPD_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait() // says that it was killed
	})
	defer end()

	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the parent said %q: %v", line, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)

	end()
	if !ended(t, fd) {
		t.Error("slapd outlives its parent")
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		ended(t, fd)
	}
}

// ended waits until the process of a pidfd has ended: the descriptor then is
// readable, whether or not somebody reaps the process.
func ended(t *testing.T, fd int) bool {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
}

func TestSilentServer(t *testing.T) {
	addr, stop, err := SilentServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c := anonymous(t, "ldap://"+addr)
	c.SetTimeout(50 * time.Millisecond)
	if err := c.UnauthenticatedBind(""); !ldap.IsErrorWithCode(err, ldap.ErrorNetwork) {
		t.Errorf("bind: %v, want a time-out", err)
	}
	dialer := &net.Dialer{Timeout: 50 * time.Millisecond}
	var timeout net.Error
	if _, err := tls.DialWithDialer(dialer, "tcp", addr, &tls.Config{ServerName: "localhost"}); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("TLS handshake: %v, want a time-out", err)
	}
	stop()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the port is open after stop")
	}
}

func TestSilentServerEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr, stop, err := SilentServer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("read after the end: %v, want a closed connection", err)
	}
	stop()
}

func TestClosingServer(t *testing.T) {
	addr, stop, err := ClosingServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()

	c := anonymous(t, "ldap://"+addr)
	c.SetTimeout(10 * time.Second)
	if err := c.UnauthenticatedBind(""); err == nil || strings.Contains(err.Error(), "timed out") {
		t.Errorf("bind: %v, want a broken connection", err)
	}

	// It answers something, and only after a request.
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(answer) < 2 || len(answer) >= 2+int(answer[1]) {
		t.Errorf("the answer % x is not the start of a message", answer)
	}
}
