package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// replication is the part of a slapd in one. Everything of it is what
// docs/servers.md tells administrators to write.
type replication struct {
	reader   string // provider: who may read without limits
	provider *Slapd // replica: whom it follows, as
	dn, pw   string
}

// StartProvider starts a slapd as [StartSlapd] does, with an overlay that serves
// replicas. reader is the DN that they bind as: the size limit does not hold for it.
func StartProvider(ctx context.Context, dir, schemaDir, reader string, o SlapdOptions) (*Slapd, error) {
	o.replication = replication{reader: reader}
	return StartSlapd(ctx, dir, schemaDir, o)
}

// StartReplica starts a slapd that follows a provider, bound to it as dn with
// password pw, and refers whoever writes to it. It returns when it answers, which
// may be before it has any entry.
func StartReplica(ctx context.Context, dir, schemaDir string, provider *Slapd, dn, pw string, o SlapdOptions) (*Slapd, error) {
	o.replication = replication{provider: provider, dn: dn, pw: pw}
	return StartSlapd(ctx, dir, schemaDir, o)
}

// passwords lets the replicas have them, so that who can bind to the provider can
// bind to a replica.
func (r replication) passwords() string {
	if r.reader == "" {
		return ""
	}
	return fmt.Sprintf("by dn.exact=%q read ", r.reader)
}

// write appends to the configuration, which ends with the entry of the database.
func (r replication) write(b *strings.Builder) {
	switch {
	case r.provider != nil:
		fmt.Fprintf(b, "olcSyncrepl: rid=1 provider=%s type=refreshAndPersist retry=\"1 +\" searchbase=%q "+
			"bindmethod=simple binddn=%q credentials=%s\n", r.provider.URI, r.provider.Base, r.dn, r.pw)
		fmt.Fprintf(b, "olcUpdateRef: %s\n", r.provider.URI)
	case r.reader != "":
		fmt.Fprintf(b, "olcLimits: dn.exact=%q size=unlimited time=unlimited\n", r.reader)
	}
	if r.provider == nil && r.reader == "" {
		return
	}
	// Both sides look entries up by what replication keeps in them.
	b.WriteString("olcDbIndex: entryCSN,entryUUID eq\n")
	if r.provider != nil {
		return
	}
	if modules, ok := firstWith("syncprov.so", moduleDirs...); ok {
		fmt.Fprintf(b, "\ndn: cn=module{1},cn=config\nobjectClass: olcModuleList\ncn: module{1}\n"+
			"olcModulePath: %s\nolcModuleLoad: syncprov\n", modules)
	}
	b.WriteString("\ndn: olcOverlay={0}syncprov,olcDatabase={1}mdb,cn=config\nobjectClass: olcOverlayConfig\n" +
		"objectClass: olcSyncProvConfig\nolcOverlay: {0}syncprov\n")
}

// Kill ends slapd as a machine that fails does: see [Slapd.Restart].
func (s *Slapd) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("kill slapd: it is stopped")
	}
	s.stopped = true
	if err := s.end(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill slapd: %w", err)
	}
	return nil
}

// Restart starts a slapd that was killed or stopped with its files and at its
// addresses, and returns when it answers. The log starts anew.
func (s *Slapd) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, slapdStartLimit)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		return errors.New("restart slapd: it runs")
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restart slapd: %w", err)
	}
	if err := s.launch(ctx, s.argv...); err != nil {
		return fmt.Errorf("restart slapd %s: %w", filepath.Base(s.argv[0]), err)
	}
	s.stopped = false
	return nil
}
