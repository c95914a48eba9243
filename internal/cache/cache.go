// Package cache keeps what the inventory last said: the definition of each level
// that was asked for, and which level each caller was given.
//
// It serves two ends. The map leaves a level's definition here and the mount
// helper picks it up, so that the helper speaks to no server and needs no LDAP
// library. And when no server answers, a known caller keeps its last known level.
//
// All of it can be had again: files are replaced by rename but not synced, and
// whatever does not parse is as good as absent. That is also why the usual
// libraries for atomic files are not used: they sync, which costs more than the
// whole lookup.
package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/levelfs/levelfs/ldapmap"
)

// A Cache is a directory, which is made at the first write, for root only.
type Cache struct {
	Dir string
	// Limit is how many bytes it may hold. When a new file makes it hold more, the
	// oldest go. 0: no limit.
	Limit int64
}

// ErrNotCached is the answer for what is not in the cache.
var ErrNotCached = errors.New("not in the cache")

// SaveLevel keeps what a resolution says of its level: component, level and
// layers. How the level was found is left out, since that is the caller's, and so are
// the layers above it, of which each is kept by itself.
func (c Cache) SaveLevel(r *ldapmap.Resolution) error {
	for _, l := range r.Above {
		if err := c.saveLayer(l); err != nil {
			return err
		}
	}
	text, err := toml.Marshal(definition{Component: r.Component, Level: r.Level, Layers: r.Layers})
	if err != nil {
		return err
	}
	return c.replace(c.levelFile(r.Level.Name), append(text, complete...))
}

// SaveMissingLevels is SaveLevel for those of many levels of which there is no
// definition yet. What goes above them is saved for all of them: nothing else asks for it.
func (c Cache) SaveMissingLevels(levels []*ldapmap.Resolution) error {
	unlimited, missing := Cache{Dir: c.Dir}, false
	for _, r := range levels {
		for _, l := range r.Above {
			missing = missing || !there(c.layerFile(l.Name))
			if err := unlimited.saveLayer(l); err != nil {
				return err
			}
		}
		if there(c.levelFile(r.Level.Name)) {
			continue
		}
		missing = true
		if err := unlimited.SaveLevel(r); err != nil {
			return err
		}
	}
	if !missing || c.Limit == 0 {
		return nil
	}
	return c.prune()
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Level returns the last saved definition of a level, such as "emacs@29.4-1", and
// when it was saved.
func (c Cache) Level(name string) (*ldapmap.Resolution, time.Time, error) {
	text, when, err := read(c.levelFile(name))
	if err != nil {
		return nil, when, err
	}
	var d definition
	if !bytes.HasSuffix(text, []byte(complete)) || toml.Unmarshal(text, &d) != nil || !d.is(name) {
		return nil, when, fmt.Errorf("level %q: %w", name, ErrNotCached)
	}
	return &ldapmap.Resolution{Component: d.Component, Level: d.Level, Layers: d.Layers}, when, nil
}

// saveLayer keeps the definition of a customisation layer.
func (c Cache) saveLayer(l ldapmap.Layer) error {
	text, err := toml.Marshal(l)
	if err != nil {
		return err
	}
	return c.replace(c.layerFile(l.Name), append(text, complete...))
}

// Above returns the last saved definitions of the customisation layers of these names, in
// their order, and when the oldest of them was saved: all of them, or an error.
func (c Cache) Above(names []string) (layers []ldapmap.Layer, oldest time.Time, err error) {
	for _, name := range names {
		text, when, err := read(c.layerFile(name))
		if err != nil {
			return nil, oldest, fmt.Errorf("layer %q: %w", name, err)
		}
		var l ldapmap.Layer
		if !bytes.HasSuffix(text, []byte(complete)) || toml.Unmarshal(text, &l) != nil || l.Name != name {
			return nil, oldest, fmt.Errorf("layer %q: %w", name, ErrNotCached)
		}
		if layers = append(layers, l); oldest.IsZero() || when.Before(oldest) {
			oldest = when
		}
	}
	return layers, oldest, nil
}

// Layers returns the definitions of a view's layers: those of the level, nil if it is not
// known, and those above it, whose names are given. One that is not here is left out.
func (c Cache) Layers(level *ldapmap.Resolution, above []string) (layers []ldapmap.Layer) {
	if level != nil {
		layers = slices.Clip(level.Layers)
	}
	for _, name := range above {
		if found, _, err := c.Above([]string{name}); err == nil {
			layers = append(layers, found...)
		}
	}
	return layers
}

// A definition is the file of a level, in TOML: the helper reads its configuration
// in it anyway, and two formats would cost it more time at every start.
type definition struct {
	Component ldapmap.Component
	Level     ldapmap.Level
	Layers    []ldapmap.Layer
}

// is reports whether the definition is that of the level, and of its component.
func (d *definition) is(name string) bool {
	component, _, _ := strings.Cut(name, "@")
	return d.Level.Name == name && d.Component.Name == component
}

// complete is the last line of a definition: without it the file was cut short.
const complete = "# complete\n"

// An Answer is what a caller was given of a component.
type Answer struct {
	Level ldapmap.Key
	Above []string // names of the customisation layers above it, topmost first
}

// AnswerOf is the answer that a resolution is.
func AnswerOf(r *ldapmap.Resolution) Answer {
	a := Answer{Level: r.Key()}
	for _, l := range r.Above {
		a.Above = append(a.Above, l.Name)
	}
	return a
}

// String is the answer as a line of a file: COMPONENT@LEVEL and the names of layers.
func (a Answer) String() string {
	return strings.Join(append([]string{a.Level.String()}, a.Above...), " ")
}

func parseAnswer(line string) (a Answer, ok bool) {
	words := strings.Split(line, " ")
	var err error
	a.Level, err = ldapmap.ParseKey(words[0])
	for _, name := range words[1:] {
		if !ldapmap.ValidLayer(name) {
			return a, false
		}
		a.Above = append(a.Above, name)
	}
	return a, err == nil && a.Level.Level != ""
}

// SaveAnswer keeps what a caller was given: HOST, or USER@HOST.
func (c Cache) SaveAnswer(caller string, a Answer) error {
	return c.replace(c.answerFile(caller, a.Level.Component), []byte(a.String()+"\n"))
}

// Answer returns what the caller was last given of the component, and when.
func (c Cache) Answer(caller, component string) (Answer, time.Time, error) {
	text, when, err := read(c.answerFile(caller, component))
	if err != nil {
		return Answer{}, when, err
	}
	line, complete := strings.CutSuffix(string(text), "\n")
	a, ok := parseAnswer(line)
	if !complete || !ok || a.Level.Component != component {
		return Answer{}, when, fmt.Errorf("level of %q for %q: %w", component, caller, ErrNotCached)
	}
	return a, when, nil
}

// SaveTree keeps what a user has on a host, USER@HOST.
func (c Cache) SaveTree(caller string, answers []Answer) error {
	var text strings.Builder
	for _, a := range answers {
		text.WriteString(a.String() + "\n")
	}
	return c.replace(c.treeFile(caller), []byte(text.String()+complete))
}

// Tree returns what the user last had, and when.
func (c Cache) Tree(caller string) ([]Answer, time.Time, error) {
	text, when, err := read(c.treeFile(caller))
	if err != nil {
		return nil, when, err
	}
	body, whole := strings.CutSuffix(string(text), complete)
	var answers []Answer
	for line := range strings.Lines(body) {
		a, ok := parseAnswer(strings.TrimSuffix(line, "\n"))
		whole = whole && ok
		answers = append(answers, a)
	}
	if !whole || len(answers) == 0 {
		return nil, when, fmt.Errorf("levels of %q: %w", caller, ErrNotCached)
	}
	return answers, when, nil
}

// SetDown notes that no server answered, and why. It is a hint, and is not written
// at all if it cannot be.
func (c Cache) SetDown(why string) {
	if c.replace(c.downFile(), []byte(why+"\n")) == nil {
		now := time.Now() // the file system's own clock may lag by some milliseconds
		_ = os.Chtimes(c.downFile(), now, now)
	}
}

// ClearDown forgets what SetDown noted.
func (c Cache) ClearDown() {
	_ = os.Remove(c.downFile())
}

// Down says whether servers that did not answer are to be left alone: since when,
// and why. They are for as long as retry; then one caller is told to ask them,
// while the others still leave them alone. A note that is older than the
// configuration, which may name other servers since, does not count.
func (c Cache) Down(retry time.Duration, configured time.Time) (why string, since time.Time, down bool) {
	text, since, err := read(c.downFile())
	if err != nil || !since.After(configured) {
		return "", since, false
	}
	now := time.Now()
	if age := now.Sub(since); age < 0 || age >= retry {
		_ = os.Chtimes(c.downFile(), now, now) // the next one waits for our answer
		return "", since, false
	}
	return strings.TrimSpace(string(text)), since, true
}

func (c Cache) downFile() string { return filepath.Join(c.Dir, "down") }

func (c Cache) levelFile(name string) string {
	return filepath.Join(c.Dir, "levels", name+".toml")
}

func (c Cache) layerFile(name string) string {
	return filepath.Join(c.Dir, "layers", name+".toml")
}

func (c Cache) answerFile(caller, component string) string {
	return filepath.Join(c.Dir, "answers", caller, component)
}

func (c Cache) treeFile(caller string) string { return filepath.Join(c.Dir, "trees", caller) }

func read(path string) ([]byte, time.Time, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, fmt.Errorf("%q: %w", filepath.Base(path), ErrNotCached)
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	text := make([]byte, info.Size())
	n, err := f.ReadAt(text, 0)
	return text[:n], info.ModTime(), err
}

// replace writes a file, or only marks it as new if it has that content already.
func (c Cache) replace(path string, text []byte) error {
	old, readErr := os.ReadFile(path)
	if readErr == nil && bytes.Equal(old, text) {
		now := time.Now()
		return os.Chtimes(path, now, now)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".*.new")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err = os.CreateTemp(filepath.Dir(path), ".*.new")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if c.Limit > 0 && errors.Is(readErr, fs.ErrNotExist) {
		return c.prune()
	}
	return nil
}
