package check

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/mounter"
)

const (
	deepChunk = 1 << 20
	// saveEvery is how much is read at most that would have to be read again.
	saveEvery = 256 << 20
)

// A pass is one reading of all images, of which the cache remembers how far it came.
type pass struct {
	Done map[string]string `json:"done"` // digest -> stamp of the file that had it
	// The image that is being read.
	Digest string `json:"digest,omitempty"`
	Stamp  string `json:"stamp,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Hash   []byte `json:"hash,omitempty"`
}

func passFile(c *config.Config) string { return filepath.Join(c.CacheDir(), "check", "deep.json") }

// Deep reads all bytes of the images and compares their digests, at the configured rate.
// When the context ends it keeps in the cache how far it came, and the next call goes on
// there; when all are read, it forgets it. progress, if not nil, is told the bytes read
// and their total.
func Deep(ctx context.Context, c *config.Config, images []Image, progress func(read, total int64)) ([]finding.Finding, error) {
	p, err := loadPass(passFile(c))
	if err != nil {
		return nil, err
	}
	d := &deep{config: c, pass: p, progress: progress, pace: pace{rate: c.CheckRate.Bytes}}
	for _, i := range images {
		d.total += i.Layer.Size
	}
	var findings []finding.Finding
	for _, i := range images {
		if i.Err != nil || i.Layer.Digest == "" {
			continue // it is known to be wrong
		}
		err := d.image(ctx, i.Layer)
		var wrong *mounter.MismatchError
		switch {
		case errors.As(err, &wrong):
			findings = append(findings, finding.New(finding.OtherImage, "", i.Layer.File(),
				fmt.Sprintf("level %s: %s", i.Level, oneLine(err)), "copy the image again"))
		case err != nil:
			return findings, errors.Join(err, d.save())
		}
	}
	err = os.Remove(passFile(c))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return findings, err
}

type deep struct {
	config      *config.Config
	pass        pass
	pace        pace
	read, total int64
	progress    func(read, total int64)
}

// loadPass reads what is remembered of a pass; what cannot be read begins anew.
func loadPass(path string) (pass, error) {
	p := pass{Done: make(map[string]string)}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if json.Unmarshal(text, &p) != nil || p.Done == nil {
		return pass{Done: make(map[string]string)}, nil
	}
	return p, nil
}

func (d *deep) save() error {
	text, err := json.Marshal(d.pass)
	if err != nil {
		return err
	}
	file := passFile(d.config)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(file, text, 0o600)
}

// image reads one image, from where the last run left it.
func (d *deep) image(ctx context.Context, l mounter.Layer) error {
	f, size, err := open(l)
	if err != nil {
		return err
	}
	defer f.Close()
	stamp, err := stampOf(f)
	if err != nil {
		return err
	}
	if d.pass.Done[l.Digest] == stamp {
		d.step(size)
		return nil
	}
	h := sha256.New()
	var offset int64
	if p := d.pass; p.Digest == l.Digest && p.Stamp == stamp && h.(encoding.BinaryUnmarshaler).UnmarshalBinary(p.Hash) == nil {
		offset = p.Offset
	} else {
		h.Reset()
	}
	d.step(offset)
	buf := make([]byte, deepChunk)
	for saved := offset; ; {
		d.pass.Digest, d.pass.Stamp, d.pass.Offset = l.Digest, stamp, offset
		if d.pass.Hash, err = h.(encoding.BinaryMarshaler).MarshalBinary(); err != nil {
			return err
		}
		if offset-saved >= saveEvery {
			if err := d.save(); err != nil {
				return err
			}
			saved = offset
		}
		if err := d.pace.wait(ctx, deepChunk); err != nil {
			return err
		}
		n, err := readAt(ctx, f, buf, offset)
		h.Write(buf[:n])
		// Nobody else reads the file by way of the page cache: loop devices over images
		// go past it. And bytes that were in memory would say nothing of the disk.
		_ = unix.Fadvise(int(f.Fd()), offset, int64(n), unix.FADV_DONTNEED)
		offset += int64(n)
		d.step(int64(n))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	d.pass.Digest, d.pass.Stamp, d.pass.Offset, d.pass.Hash = "", "", 0, nil
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != l.Digest {
		return &mounter.MismatchError{Layer: l.Name, Image: l.File(), What: "digest", Got: got, Want: l.Digest}
	}
	d.pass.Done[l.Digest] = stamp
	return nil
}

func (d *deep) step(n int64) {
	d.read += n
	if d.progress != nil {
		d.progress(d.read, d.total)
	}
}

// readAt reads, and gives up when a disk does not answer.
func readAt(ctx context.Context, f *os.File, buf []byte, offset int64) (int, error) {
	some, err := Try(ctx, probeTime, func(context.Context) ([]byte, error) {
		own := make([]byte, len(buf)) // a read that is given up may still write into it
		n, err := f.ReadAt(own, offset)
		return own[:n], err
	})
	return copy(buf, some), err
}

// stampOf changes whenever the file does: ctime can be set by nobody.
func stampOf(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("dev %d ino %d size %d ctime %d.%09d", st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec), nil
}

// A pace keeps reading at a rate.
type pace struct {
	rate  int64 // bytes a second
	start time.Time
	spent int64
}

// wait returns when the next n bytes may be read.
func (p *pace) wait(ctx context.Context, n int64) error {
	if p.start.IsZero() {
		p.start = time.Now()
	}
	due := p.start.Add(time.Duration(float64(p.spent) / float64(p.rate) * float64(time.Second)))
	p.spent += n
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(due)):
		return nil
	}
}
