package testenv

import (
	"context"
	"net"
	"sync"
)

// SilentServer listens on a loopback address, accepts, and never answers: an
// LDAP server that hangs, be it in a bind or in a TLS handshake. It ends when
// ctx does or stop is called; stop returns when nothing of it is left.
func SilentServer(ctx context.Context) (addr string, stop func(), err error) {
	return serveLoopback(ctx, func(ctx context.Context, _ net.Conn) { <-ctx.Done() })
}

// ClosingServer listens on a loopback address, reads the first request of each
// connection, answers half a BER message, and closes: an LDAP server that dies
// while it answers. It ends when ctx does or stop is called; stop returns when
// nothing of it is left.
func ClosingServer(ctx context.Context) (addr string, stop func(), err error) {
	return serveLoopback(ctx, func(_ context.Context, c net.Conn) {
		// A first request is far smaller than what one read takes on the
		// loopback. What would be left unread makes the close a reset, which is
		// just as good a failure. An error means that the client went away.
		if _, err := c.Read(make([]byte, 64<<10)); err != nil {
			return
		}
		// SEQUENCE of 12 bytes, messageID 1, and then a BindResponse that
		// breaks off after its header.
		c.Write([]byte{0x30, 0x0c, 0x02, 0x01, 0x01, 0x61, 0x07})
	})
}

// serveLoopback runs handle for each connection to a free loopback port.
// Connections are closed when handle returns or the server ends.
func serveLoopback(ctx context.Context, handle func(context.Context, net.Conn)) (addr string, stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		<-ctx.Done()
		l.Close()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				// Closed by us; were it anything else, clients would see a
				// server that is down, and stop would still work.
				return
			}
			running.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				handle(ctx, c)
			})
		}
	})
	return l.Addr().String(), func() {
		cancel()
		running.Wait()
	}, nil
}
