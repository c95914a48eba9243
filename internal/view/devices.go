package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/attached"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/pmem"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// attachWait bounds the wait for a segment. CP needs seconds for one that it has to
// load from its spool; then the layer's image file is the better choice, and the
// segment is there for the next mount.
const attachWait = 30 * time.Second

// wish is what is wanted of execution in place for a layer: the layer's own word, its
// component's, or the machine's.
func wish(c *config.Config, component ldapmap.Component, l ldapmap.Layer) mounter.XIP {
	for _, w := range []string{l.XIP, component.XIP, c.XIP} {
		if w != "" {
			return mounter.XIP(w)
		}
	}
	return mounter.XIPAuto
}

// A memory is what shared memory this machine has. It is looked at when a layer may be in it
// and, for all layers of a view, once.
type memory struct {
	segments func() error // why there can be none, or nil
	pmem     func() ([]pmem.Device, error)
}

func newMemory(c *config.Config) *memory {
	return &memory{
		segments: sync.OnceValue(func() error {
			_, err := attached.New(c).List()
			return err
		}),
		pmem: sync.OnceValues(pmem.NewFromRoot(c.Root(), mounter.Probe).List),
	}
}

// find looks for the device with the file system of that UUID.
func (m *memory) find(uuid string) (pmem.Device, error) {
	devices, err := m.pmem()
	if err != nil {
		return pmem.Device{}, err
	}
	return pmem.Find(devices, uuid)
}

// devices are where the layer's image may be in shared memory on this machine, and why
// it is not where it might be.
func (m *memory) devices(l ldapmap.Layer, w mounter.XIP) (found []mounter.Device, why string) {
	if w == mounter.XIPOff {
		return nil, "xip is off"
	}
	var reasons []string
	if len(l.Segments) > 0 {
		switch err := m.segments(); {
		case err == nil:
			for _, s := range l.Segments {
				found = append(found, mounter.Device{Kind: mounter.Segment, Name: strings.ToUpper(s)})
			}
		case errors.Is(err, dcss.ErrNoDriver):
			reasons = append(reasons, "the machine has no driver for segments")
		default:
			reasons = append(reasons, fmt.Sprintf("segments: %v", err))
		}
	}
	if l.UUID != "" {
		switch d, err := m.find(l.UUID); {
		case err == nil:
			found = append(found, mounter.Device{Kind: mounter.Pmem, Name: d.Node})
		case errors.Is(err, pmem.ErrNotFound):
			reasons = append(reasons, "it is on no pmem device")
		default:
			reasons = append(reasons, fmt.Sprintf("pmem: %v", err))
		}
	}
	if len(found) > 0 {
		return found, ""
	}
	if len(reasons) == 0 {
		reasons = []string{"it has no segment and no UUID to find a pmem device by"}
	}
	return nil, strings.Join(reasons, ", ")
}

// Opener opens shared memory for a [mounter.Applier].
func Opener(c *config.Config) func(context.Context, mounter.Device) (*os.File, error) {
	return func(ctx context.Context, d mounter.Device) (*os.File, error) {
		if d.Kind == mounter.Segment {
			return openSegment(ctx, c, d.Name)
		}
		return openPmem(c, d.Name)
	}
}

func openSegment(ctx context.Context, c *config.Config, name string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, attachWait)
	defer cancel()
	return attached.New(c).Open(ctx, strings.Split(name, ":")...)
}

// openPmem opens a device for reading, after it was set read-only: the host maps the
// image so, and what a guest would write would be lost without a word.
func openPmem(c *config.Config, node string) (*os.File, error) {
	f, err := os.Open(filepath.Join(c.Root(), "dev", node))
	if err != nil {
		return nil, err
	}
	if err := pmem.SetReadOnly(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
