package diff

import (
	"errors"
	"io"

	"github.com/levelfs/levelfs/internal/manifest"
)

// A Stream gives the files of one layer in the order of [manifest.Compare], and io.EOF
// after the last. [manifest.Reader] is one.
type Stream interface {
	Next() (*manifest.Entry, error)
	Close() error
}

// An item is a file as a stack of layers shows it.
type item struct {
	*manifest.Entry
	layer int // index of the layer whose it is
}

// A stack merges layers as overlayfs does: the topmost has a name, directories are merged,
// whiteouts and opaque directories hide what is below (overlayfs.rst).
type stack struct {
	streams []Stream
	heads   []*manifest.Entry // the next entry of each layer; nil after the last
	dirs    []frame           // around the last entry, outermost first
	now     *item             // the last that next returned; nil after the end
}

// A frame is a directory, or what hides one: only the first so many layers are seen in
// it.
type frame struct {
	path   string
	layers int
}

func newStack(streams []Stream) (*stack, error) {
	s := &stack{streams: streams, heads: make([]*manifest.Entry, len(streams))}
	for i := range streams {
		if err := s.advance(i); err != nil {
			return nil, err
		}
	}
	return s, s.next()
}

func (s *stack) advance(i int) error {
	e, err := s.streams[i].Next()
	if errors.Is(err, io.EOF) {
		e, err = nil, nil
	}
	s.heads[i] = e
	return err
}

// next goes to the next file that the stack shows.
func (s *stack) next() error {
	for {
		first := -1
		for i, e := range s.heads {
			if e != nil && (first < 0 || manifest.Compare(e.Path, s.heads[first].Path) < 0) {
				first = i
			}
		}
		if first < 0 {
			s.now = nil
			return nil
		}
		found, err := s.merge(s.heads[first].Path)
		if err != nil {
			return err
		}
		if found != nil {
			s.now = found
			return nil
		}
	}
}

// merge takes the name from all layers that have it next, and returns what is seen of
// it, or nil.
func (s *stack) merge(path string) (*item, error) {
	for len(s.dirs) > 0 && !manifest.Inside(path, s.dirs[len(s.dirs)-1].path) {
		s.dirs = s.dirs[:len(s.dirs)-1]
	}
	visible := len(s.heads)
	if len(s.dirs) > 0 {
		visible = s.dirs[len(s.dirs)-1].layers
	}
	var found *item
	below := visible // layers that are seen below the name
	for i, e := range s.heads {
		if e == nil || e.Path != path {
			continue
		}
		if i < below {
			switch {
			case e.Type != manifest.Dir: // a whiteout, too
				below = i
				if found == nil {
					below = 0
					if !e.Whiteout() {
						found = &item{e, i}
					}
				}
			default:
				if found == nil {
					found = &item{e, i}
				}
				if e.Opaque() {
					below = i + 1
				}
			}
		}
		if err := s.advance(i); err != nil {
			return nil, err
		}
	}
	s.dirs = append(s.dirs, frame{path, below})
	return found, nil
}

// seek returns what the stack shows at the path, or nil. Paths are asked for in order.
func (s *stack) seek(path string) (*item, error) {
	for s.now != nil && manifest.Compare(s.now.Path, path) < 0 {
		if err := s.next(); err != nil {
			return nil, err
		}
	}
	if s.now == nil || s.now.Path != path {
		return nil, nil
	}
	return s.now, nil
}

func (s *stack) close() error {
	var errs []error
	for _, stream := range s.streams {
		errs = append(errs, stream.Close())
	}
	return errors.Join(errs...)
}
