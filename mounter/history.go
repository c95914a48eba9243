package mounter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Period is the time from which on a private layer was under a level.
type Period struct {
	Level string    `json:"level"` // "emacs@29.4-1"
	Since time.Time `json:"since"`
}

// The private layer's file history has a line for each level that it was under, oldest
// first, but for the last, which is in the file level; and the file level.before is
// what the file level was before its last change.
func (p *Private) history() string { return filepath.Join(p.Dir, "history") }
func (p *Private) before() string  { return filepath.Join(p.Dir, "level.before") }

// History returns the levels that the private layer in dir was under on this machine,
// oldest first; the last is the one that it is under. It is empty for a private layer
// that was never mounted.
func History(dir string) ([]Period, error) {
	p := &Private{Dir: dir}
	text, err := os.ReadFile(p.history())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var periods []Period
	for line := range strings.Lines(string(text)) {
		// What a crash left of a line is none.
		if one, ok := parsePeriod(line); ok {
			periods = addPeriod(periods, one)
		}
	}
	now, err := p.period()
	if errors.Is(err, fs.ErrNotExist) || err == nil && now.Level == "" { // it was cut off
		return periods, nil
	}
	if err != nil {
		return nil, err
	}
	return addPeriod(periods, now), nil
}

// addPeriod adds a period that is not just more of the last one: its end may have been
// noted although it went on, or only what lies above the level has changed.
func addPeriod(periods []Period, p Period) []Period {
	if n := len(periods); n > 0 && periods[n-1].Level == p.Level {
		return periods
	}
	return append(periods, p)
}

func (a Period) String() string {
	return fmt.Sprintf("%s %s\n", a.Since.UTC().Format(time.RFC3339Nano), a.Level)
}

func parsePeriod(line string) (Period, bool) {
	since, level, ok := strings.Cut(line, " ")
	level, complete := strings.CutSuffix(level, "\n")
	when, err := time.Parse(time.RFC3339Nano, since)
	return Period{Level: level, Since: when}, ok && complete && err == nil && level != ""
}

// period is what the file level says, which was written when its level came.
func (p *Private) period() (Period, error) {
	info, err := os.Stat(p.level())
	if err != nil {
		return Period{}, err
	}
	text, err := os.ReadFile(p.level())
	if err != nil {
		return Period{}, err
	}
	return Period{Level: recordedLevel(string(text)), Since: info.ModTime()}, nil
}

// recordedLevel is the level of a record as levelRecord makes it.
func recordedLevel(record string) string {
	line, _, _ := strings.Cut(record, "\n")
	return strings.TrimPrefix(line, "level ")
}

// keepRecord keeps what the file level says, before it is replaced: for people in the
// history, and whole for who has to put it back.
func (p *Private) keepRecord() error {
	now, err := p.period()
	if err != nil {
		return err
	}
	if err := p.appendHistory(now); err != nil {
		return err
	}
	if err := removeIfThere(p.before()); err != nil {
		return err
	}
	return os.Link(p.level(), p.before())
}

// appendHistory adds a line, unless it is the last one already. It is not synced: it
// goes to the disk with what is written next.
func (p *Private) appendHistory(now Period) error {
	f, err := os.OpenFile(p.history(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	line := now.String()
	tail := make([]byte, min(info.Size(), int64(len(line))))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil {
		return err
	}
	switch {
	case string(tail) == line:
		return nil
	case len(tail) > 0 && tail[len(tail)-1] != '\n': // a crash cut it short
		line = "\n" + line
	}
	_, err = f.WriteString(line)
	return err
}

// restoreRecord puts the file level back to what it was before its last change. If it
// is so already, as both names are one file, the kernel changes nothing.
func (p *Private) restoreRecord() error {
	if err := unix.Rename(p.before(), p.level()); err != nil {
		return &fs.PathError{Op: "rename", Path: p.before(), Err: err}
	}
	return syncDirectory(p.Dir)
}
