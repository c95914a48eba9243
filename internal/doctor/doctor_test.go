package doctor

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestHolds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		from, to int // days from now
		want     State
	}{{-1, 365, OK}, {-1, 31, OK}, {-1, 29, Warning}, {-30, -1, Error}, {1, 365, Error}} {
		cert := &x509.Certificate{NotBefore: now.AddDate(0, 0, c.from), NotAfter: now.AddDate(0, 0, c.to)}
		if l := holds("x", cert, now); l.State != c.want || (l.Remedy == "") != (c.want == OK) {
			t.Errorf("%+v: %+v", c, l)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cert")
	if l := clientCertificate(file); l.State != Error {
		t.Errorf("none: %+v", l)
	}
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := clientCertificate(file); l.State != Error {
		t.Errorf("no PEM: %+v", l)
	}
}

func TestWorst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		states []State
		want   State
	}{{nil, OK}, {[]State{OK, OK}, OK}, {[]State{OK, Warning, OK}, Warning}, {[]State{Warning, Error, OK}, Error}} {
		var lines []Line
		for _, s := range c.states {
			lines = append(lines, Line{State: s})
		}
		if got := Worst(lines); got != c.want {
			t.Errorf("%v: %s, want %s", c.states, got, c.want)
		}
	}
}
