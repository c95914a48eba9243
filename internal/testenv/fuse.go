package testenv

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A DeadFS is a FUSE file system of a directory's files that can stop answering: its server
// lives and takes requests, as one whose network is gone. Who waits for it then cannot even
// be killed.
type DeadFS struct{ gate *gate }

// A gate is closed while the server does not answer.
type gate struct{ open chan chan struct{} }

func (g *gate) pass() {
	barrier := <-g.open
	g.open <- barrier
	<-barrier
}

// gatedNode is a file of the directory, each question about which has to pass the gate.
type gatedNode struct {
	fs.LoopbackNode
	gate *gate
}

// Lookup, Getattr, Opendir and Statfs are what a look at a directory begins with.
func (n *gatedNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.gate.pass()
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *gatedNode) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.gate.pass()
	return n.LoopbackNode.Getattr(ctx, f, out)
}

func (n *gatedNode) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.gate.pass()
	return n.LoopbackNode.OpendirHandle(ctx, flags)
}

func (n *gatedNode) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	n.gate.pass()
	return n.LoopbackNode.Statfs(ctx, out)
}

// MountDeadFS mounts the directory from at the directory at, until the end of the test:
// nobody may use it by then, and it has to be revived.
func MountDeadFS(t testing.TB, from, at string) *DeadFS {
	t.Helper()
	g := &gate{open: make(chan chan struct{}, 1)}
	answering := make(chan struct{})
	close(answering)
	g.open <- answering
	root := &fs.LoopbackRoot{Path: from}
	root.NewNode = func(data *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &gatedNode{fs.LoopbackNode{RootData: data}, g}
	}
	node := &gatedNode{fs.LoopbackNode{RootData: root}, g}
	root.RootNode = node
	// Opened and mounted here, so that no child has the descriptor: when this process is
	// gone, the kernel has an error for all who wait.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("dead", at, "fuse.test", unix.MS_NODEV|unix.MS_NOSUID, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)); err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	// Nothing is remembered by the kernel: every look asks the server.
	server, err := fs.Mount(fmt.Sprintf("/dev/fd/%d", fd), node, &fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err != nil {
			t.Error(err)
		}
		server.Wait()
	})
	return &DeadFS{g}
}

// Die has it answer nothing any more, until revive is called.
func (d *DeadFS) Die() (revive func()) {
	<-d.gate.open
	barrier := make(chan struct{})
	d.gate.open <- barrier
	return func() { close(barrier) }
}
