package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// An Interruption is what a switch has left that was killed.
type Interruption struct {
	View View // the old one: read-only, and in front of the new one if there is that
	// Covered is the new view beneath it, whole, or nil if it did not come.
	Covered *View
}

func (i Interruption) String() string {
	if i.Covered != nil {
		return fmt.Sprintf("view %s at %q still covers %s", i.View.Name, i.View.Target, i.Covered.Name)
	}
	return fmt.Sprintf("view %s at %q is read-only", i.View.Name, i.View.Target)
}

// Interruptions are those that are to be seen in the views; run is the run directory of
// those who mount them. A switch that is under way is none.
func Interruptions(run string, views []View) []Interruption {
	var found []Interruption
	for lock, group := range byLock(run, views) {
		if interrupted := interruptions(group); len(interrupted) > 0 && !locked(lock) {
			found = append(found, left(lock, interrupted)...)
		}
	}
	return inOrder(found)
}

// Heal ends the switches that were interrupted, and returns what it has ended: where the
// new view is there the old one is taken away, and where it is not the old one becomes
// writable again. Where a switch is under way it waits for it.
//
// What there is to do is to be seen in mountinfo and in the private layer's lock file;
// nothing else is needed. A view that cannot be healed does not keep others from it.
func Heal(ctx context.Context, run string, views []View) ([]Interruption, error) {
	var (
		healed []Interruption
		errs   []error
	)
	for path, group := range byLock(run, views) {
		if len(interruptions(group)) == 0 {
			continue
		}
		lock, err := lockFile(ctx, path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		now, err := Views() // they may have been others before the lock was there
		if err == nil {
			var done []Interruption
			done, err = healLocked(privateOf(path, run), lock, run, now)
			healed = append(healed, done...)
		}
		errs = append(errs, err, lock.Close())
	}
	return inOrder(healed), errors.Join(errs...)
}

func inOrder(found []Interruption) []Interruption {
	slices.SortFunc(found, func(a, b Interruption) int { return a.View.ID - b.View.ID })
	return found
}

// byLock groups the views by the lock under which they are replaced.
func byLock(run string, views []View) map[string][]View {
	groups := make(map[string][]View)
	for _, v := range views {
		lock := switchLock(run)
		if v.Upper != "" && !v.inMemory(run) {
			lock = (&Private{Dir: filepath.Dir(v.Upper)}).lock()
		}
		groups[lock] = append(groups[lock], v)
	}
	return groups
}

// privateOf is the private layer whose lock it is, or "".
func privateOf(lock, run string) string {
	if lock == switchLock(run) {
		return ""
	}
	return filepath.Dir(lock)
}

// locked reports whether somebody holds the lock.
func locked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// interruptions are those that can be one, by mountinfo. Nothing is ever mounted in a
// view: if one is, the outer is a new one that was attached beneath the inner.
func interruptions(views []View) []Interruption {
	var found []Interruption
	for _, v := range views {
		i := slices.IndexFunc(views, func(under View) bool {
			return under.ID == v.Parent && under.Target == v.Target && under.Upper == v.Upper && v.ReadOnly
		})
		switch {
		case i >= 0:
			found = append(found, Interruption{View: v, Covered: &views[i]})
		case v.Frozen:
			found = append(found, Interruption{View: v})
		}
	}
	return found
}

// left are those that the lock file does not contradict. A view that is read-only may also
// be one that was replaced and is still mounted elsewhere, or one that the kernel has
// made so because a disk was full.
func left(lock string, found []Interruption) []Interruption {
	f, err := os.Open(lock)
	if err != nil {
		return found
	}
	defer f.Close()
	return slices.DeleteFunc(found, func(i Interruption) bool { return i.Covered == nil && !leaving(f, i.View) })
}

// leaving reports whether the view was being replaced, as far as the lock file knows.
func leaving(lock *os.File, v View) bool {
	u := lastUse(lock)
	return u.boot == "" || u.boot == bootID() && u.leaving == v.device()
}

// healLocked is Heal for the views over one private layer, or, if private is "", for all
// those without one that lasts, whose lock is held.
func healLocked(private string, lock *os.File, run string, views []View) ([]Interruption, error) {
	var (
		healed []Interruption
		errs   []error
	)
	upper := Upper(private)
	group := slices.DeleteFunc(slices.Clone(views), func(v View) bool {
		if private == "" {
			return v.Upper != "" && !v.inMemory(run)
		}
		return v.Upper != upper
	})
	for _, i := range interruptions(group) {
		var err error
		switch {
		case i.Covered != nil:
			err = i.uncover(private, lock)
		case private == "":
			err = i.thaw()
		case !leaving(lock, i.View):
			continue
		default:
			err = i.goBack(&Private{Dir: private}, lock)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("heal view %s at %q: %w", i.View.Name, i.View.Target, err))
			continue
		}
		healed = append(healed, i)
	}
	return healed, errors.Join(errs...)
}

// uncover takes away the old view: the new one is whole and recorded.
func (i Interruption) uncover(private string, lock *os.File) error {
	old, err := openMount(i.View.Target, i.View.device())
	if err != nil {
		return err
	}
	defer old.Close()
	if err := detach(old); err != nil {
		return err
	}
	if private == "" {
		return nil
	}
	return use{boot: bootID(), dev: i.Covered.device()}.note(lock)
}

// goBack makes the old view what it was: the new one did not come. Which level the
// private layer is under may have been written down already.
func (i Interruption) goBack(p *Private, lock *os.File) error {
	if err := i.alone(p, lock); err != nil {
		return err
	}
	record, err := os.ReadFile(p.level())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && recordedLevel(string(record)) != i.View.Name {
		before, err := os.ReadFile(p.before())
		if err == nil && recordedLevel(string(before)) == i.View.Name {
			err = p.restoreRecord()
		} else {
			// A wrong one is worse than none, which the next mount writes anew.
			err = os.Remove(p.level())
		}
		if err != nil {
			return err
		}
	}
	if err := i.thaw(); err != nil {
		return err
	}
	return use{boot: bootID(), dev: i.View.device()}.note(lock)
}

// alone is an error if another view of the private layer may live. Where the new one was
// to be attached it is to be seen, but this may be another mount namespace. It is asked
// before the old one becomes writable.
func (i Interruption) alone(p *Private, lock *os.File) error {
	last := lastUse(lock)
	here, err := mountNamespaceID()
	if err != nil {
		return err
	}
	if last.boot != "" && (last.namespace == here || last.dev == last.leaving || superblockGone(last.dev)) {
		return nil
	}
	namespaces, err := mountNamespaces()
	if err != nil {
		return err
	}
	for _, n := range namespaces {
		for _, v := range n.views {
			if v.Upper == p.upper() && v.device() != i.View.device() {
				return fmt.Errorf("its private layer is in use by view %s in the mount namespace of process %d (%s)", v.Name, n.pid, n.command)
			}
		}
	}
	if last.boot != "" {
		return errors.New("whether the new view lives can only be told in the mount namespace where it was to be: heal it there, or unmount this one")
	}
	return nil
}

// thaw makes the view writable again.
func (i Interruption) thaw() error {
	old, err := openMount(i.View.Target, i.View.device())
	if err != nil {
		return err
	}
	defer old.Close()
	return reconfigure(old, "rw")
}
