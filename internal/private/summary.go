package private

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/mounter"
)

// A Summary is what a comparison found, for those who do not want to see every file.
type Summary struct {
	Counts map[diff.Verdict]int // of all private files
	Named  []*diff.Finding      // the first of those that were asked for
	More   int                  // that Named leaves out
}

// tries is how often files are compared anew that are deleted meanwhile.
const tries = 3

// Summary compares the private layer with a level, and names so many of the files with a
// verdict that is wanted. The layer's view may be mounted: what is deleted in it while it
// is looked at is a reason to look again, and not for ever.
func (l *Layer) Summary(ctx context.Context, now mounter.Base, names int, wanted func(diff.Verdict) bool) (Summary, error) {
	for try := 1; ; try++ {
		s := Summary{Counts: make(map[diff.Verdict]int)}
		err := l.Diff(ctx, now, func(f *diff.Finding) error {
			s.Counts[f.Verdict]++
			switch {
			case !wanted(f.Verdict):
			case len(s.Named) < names:
				s.Named = append(s.Named, f)
			default:
				s.More++
			}
			return nil
		})
		var missing *MissingError
		if !errors.Is(err, fs.ErrNotExist) || errors.As(err, &missing) || try == tries {
			return s, err
		}
	}
}

// Empty reports whether there are no files in the private layer at the directory.
func Empty(dir string) (bool, error) {
	upper, err := os.Open(mounter.Upper(dir))
	if err != nil {
		return false, err
	}
	defer upper.Close()
	_, err = upper.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
