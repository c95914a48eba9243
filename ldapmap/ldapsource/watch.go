package ldapsource

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

var _ ldapmap.Watcher = (*Source)(nil)

// watchLimit is for a search that does not end: each message is bounded as in a lookup,
// and all of them together are not, as they are looked at one by one and not kept.
func watchLimit() *limit {
	l := *lookupLimit()
	l.totalBytes, l.totalElements = 0, 0
	return &l
}

// watchEntries is the most entries that a server may begin with.
const watchEntries = 100_000

// contentTime is how long a server may take to tell what there is, to begin with.
const contentTime = time.Minute

// A position is how far one server has told of one content (RFC 4533, section 2.1.2).
type position struct {
	server, filter string
	cookie         []byte
}

// Watch implements [ldapmap.Watcher], by content synchronisation (RFC 4533, in the mode
// refreshAndPersist): a search that goes on. It keeps the server's cookie, so that a
// second Watch of the same is told what has changed since, and not everything anew. If a
// server fails, the next one is asked.
func (s *Source) Watch(ctx context.Context, w ldapmap.Watch) error {
	err := s.each(ctx, s.patience(), func(c *connection) error {
		c.in.limit.Store(watchLimit())
		err := s.follow(ctx, c, w)
		if ldap.IsErrorAnyOf(err, ldap.LDAPResultUnavailableCriticalExtension, ldap.LDAPResultProtocolError, ldap.LDAPResultUnwillingToPerform) {
			return &ldapmap.NoWatchError{Source: s.Name(), Err: said(err)}
		}
		return said(err)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// follow begins the search on one connection, and hands on what the server says.
func (s *Source) follow(ctx context.Context, c *connection, w ldapmap.Watch) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := s.request(w.Terms, w.Attrs)
	request.SizeLimit = watchEntries
	server := s.servers[s.server].String()
	if s.position.server != server || s.position.filter != request.Filter {
		s.position = position{server: server, filter: request.Filter}
	}
	if err := c.in.SetDeadline(time.Now().Add(max(contentTime, s.patience()))); err != nil {
		return err
	}
	response := c.Syncrepl(ctx, request, 64, ldap.SyncRequestModeRefreshAndPersist, s.position.cookie, false)
	ready := false
	cookie := s.position.cookie // counts once all before it has been told
	for response.Next() {
		if entry := response.Entry(); entry != nil {
			gone := false
			for _, control := range response.Controls() {
				if state, ok := control.(*ldap.ControlSyncState); ok {
					gone = state.State == ldap.SyncStateDelete
					cookie = later(cookie, state.Cookie)
				}
			}
			w.Changed(entries(&ldap.SearchResult{Entries: []*ldap.Entry{entry}})[0], gone)
		} else {
			for _, control := range response.Controls() {
				if info, ok := control.(*ldap.ControlSyncInfo); ok {
					done, fresh, deleted := read(info)
					if cookie = later(cookie, fresh); deleted {
						w.Changed(ldapmap.Entry{}, true)
					}
					if done && !ready {
						ready = true
						w.Ready()
						go s.probe(ctx, c, w.Probe)
					}
				}
			}
		}
		if ready {
			s.position.cookie = cookie
		}
	}
	switch err := response.Err(); {
	case ctx.Err() != nil:
		return ctx.Err()
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSyncRefreshRequired):
		s.position.cookie = nil
		return err
	case err == nil:
		return errors.New("the server has ended the search")
	default:
		return err
	}
}

func later(cookie, fresh []byte) []byte {
	if len(fresh) > 0 {
		return fresh
	}
	return cookie
}

// read says what a sync info message means (RFC 4533, section 2.5): whether all has been
// told that there was to begin with, the cookie, and whether entries are gone that are
// not named.
func read(info *ldap.ControlSyncInfo) (done bool, cookie []byte, deleted bool) {
	switch {
	case info.NewCookie != nil:
		return false, info.NewCookie.Cookie, false
	case info.RefreshDelete != nil:
		return info.RefreshDelete.RefreshDone, info.RefreshDelete.Cookie, false
	case info.RefreshPresent != nil:
		return info.RefreshPresent.RefreshDone, info.RefreshPresent.Cookie, false
	case info.SyncIdSet != nil:
		return false, info.SyncIdSet.Cookie, info.SyncIdSet.RefreshDeletes
	}
	return false, nil, false
}

// probe asks the server now and then whether it lives. If it does not answer in time, the
// connection ends, and with it the search. Any answer will do: a reader may not see the
// root DSE.
func (s *Source) probe(ctx context.Context, c *connection, every time.Duration) {
	keepAlive(c.in.Conn, every)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		// Longer than until the next question and its answer: this is for who is not
		// scheduled in time.
		if err := c.in.SetDeadline(time.Now().Add(every + 2*s.patience())); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := c.in.SetDeadline(time.Now().Add(s.patience())); err != nil {
			return
		}
		request := ldap.NewSearchRequest("", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)", []string{"1.1"}, nil)
		_, err := c.Search(request)
		var answer *ldap.Error
		if err != nil && (!errors.As(err, &answer) || answer.ResultCode >= ldap.ErrorNetwork) {
			c.Close()
			return
		}
	}
}

// keepAlive has the kernel look less often whether the other end is there than it does by
// itself: there may be thousands of idle guests, and each is woken up for it.
func keepAlive(c net.Conn, idle time.Duration) {
	for {
		wrapped, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = wrapped.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: 15 * time.Second, Count: 4}) // the probe is what counts
	}
}
