package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/ldapmap"
)

// A caller is whose level is asked for: a host, or a user on it.
type caller struct {
	host    string
	user    string           // "" for the host itself
	account *account.Account // nil: not known here
}

// name is the caller's in the cache.
func (w caller) name() string {
	if w.user == "" {
		return w.host
	}
	return w.user + "@" + w.host
}

// options are what the caller adds to the mount options.
func (w caller) options() string {
	if w.user == "" {
		return ""
	}
	text := ",caller=" + w.user
	if w.account != nil {
		text += fmt.Sprintf(",uid=%d,gid=%d", w.account.UID, w.account.GID)
	}
	return text
}

// requester is the user who makes automount mount something, as automount tells its
// map programs (auto.master(5)). It tells them nothing of a user who has no account:
// that one is unknown, and never taken for root or the host.
func requester() (name string, a account.Account, err error) {
	name = os.Getenv("AUTOFS_USER")
	if name == "" || os.Getenv("AUTOFS_UID") == "" {
		return "", a, errors.New("unknown caller: automount does not say who it is (AUTOFS_USER, AUTOFS_UID), " +
			"as for a user without an account, or with force_standard_program_map_env")
	}
	if !ldapmap.ValidUser(name) {
		return "", a, fmt.Errorf("unknown caller: invalid user name %.80q", name)
	}
	a, err = account.Parse(os.Getenv("AUTOFS_UID"), os.Getenv("AUTOFS_GID"))
	if err != nil {
		return "", a, fmt.Errorf("unknown caller %s: AUTOFS_UID or AUTOFS_GID: %w", name, err)
	}
	if root := name == "root"; root != (a.UID == 0) {
		return "", a, fmt.Errorf("unknown caller: user %s with uid %d", name, a.UID)
	}
	return name, a, nil
}

// A desk is what a lookup needs.
type desk struct {
	*config.Config
	store cache.Cache
}

func newDesk(c *config.Config) desk {
	return desk{c, cache.Cache{Dir: c.CacheDir(), Limit: c.CacheSize.Bytes}}
}

// ask opens the inventory for one question. If servers are known not to answer, or
// do not, down says why; err is every other failure.
func (d desk) ask(question func(context.Context, *inventory.Inventory) error) (down, err error) {
	inv, err := inventory.Open(d.Config)
	if err != nil {
		return nil, err
	}
	defer inv.Close()
	if why, since, isDown := d.store.Down(d.Retry.Duration, d.Changed()); isDown {
		return fmt.Errorf("%s (at %s, not asked again within %v)", why, since.UTC().Format(time.RFC3339), d.Retry.Duration), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = question(ctx, inv)
	var unavailable *ldapmap.UnavailableError
	if errors.As(err, &unavailable) {
		d.store.SetDown(oneLine(unavailable))
		return unavailable, nil
	}
	d.store.ClearDown()
	return nil, err
}

// tooOld is an error if what was last known may not be used any more.
func (d desk) tooOld(when time.Time, down error) error {
	if age := time.Since(when); age > d.Keep.Duration {
		return fmt.Errorf("%w; and the last known level is of %s, older than %v", down, when.UTC().Format(time.RFC3339), d.Keep.Duration)
	}
	return nil
}

func cacheWarning(err error) []string {
	if err == nil {
		return nil
	}
	return []string{"cannot write the cache: " + oneLine(err)}
}

// lookUp answers a key of a map that gives levels.
func lookUp(c *config.Config, program string, key ldapmap.Key) (line string, warnings []string, err error) {
	who, err := callerOf(c, program)
	if err != nil {
		return "", nil, err
	}
	d := newDesk(c)
	var r *ldapmap.Resolution
	down, err := d.ask(func(ctx context.Context, inv *inventory.Inventory) error {
		var err error
		r, err = inv.Resolve(ctx, ldapmap.Query{Key: key, Host: who.host, User: who.user})
		return err
	})
	if err != nil {
		return "", nil, err
	}
	if down != nil {
		return d.lastLevel(who, key, down)
	}
	a := cache.AnswerOf(r)
	err = d.store.SaveLevel(r)
	if key.Level == "" {
		err = errors.Join(err, d.store.SaveAnswer(who.name(), a))
	}
	return format(who, key, a), cacheWarning(err), nil
}

// callerOf is whose level the map program gives.
func callerOf(c *config.Config, program string) (who caller, err error) {
	kind, err := c.Caller(program)
	if err != nil {
		return who, err
	}
	if kind == config.UserCaller {
		var a account.Account
		if who.user, a, err = requester(); err != nil {
			return who, err
		}
		who.account = &a
	}
	who.host, err = c.Hostname()
	return who, err
}

// lastLevel answers from the cache when no server does.
func (d desk) lastLevel(who caller, key ldapmap.Key, down error) (line string, warnings []string, err error) {
	a, when := cache.Answer{Level: key}, time.Time{}
	if key.Level == "" {
		if a, when, err = d.store.Answer(who.name(), key.Component); err != nil {
			return "", nil, fmt.Errorf("%w; and %w", down, err)
		}
	}
	if _, _, err := d.store.Above(a.Above); err != nil {
		return "", nil, fmt.Errorf("%w; and %w", down, err)
	}
	if _, defined, err := d.store.Level(a.Level.String()); err != nil {
		return "", nil, fmt.Errorf("%w; and %w", down, err)
	} else if when.IsZero() {
		when = defined
	}
	if err := d.tooOld(when, down); err != nil {
		return "", nil, err
	}
	return format(who, key, a), []string{fmt.Sprintf("%s; giving %s, the last known level of %s",
		oneLine(down), a.Level, when.UTC().Format(time.RFC3339))}, nil
}

// lookUpTree answers a key of the users' tree.
func lookUpTree(c *config.Config, user string) (line string, warnings []string, err error) {
	who := caller{user: user}
	if who.host, err = c.Hostname(); err != nil {
		return "", nil, err
	}
	// What automount says of who asks serves if it is the same one, and else nobody
	// asks for it here: the helper does when it makes the private layer.
	if name, a, err := requester(); err == nil && name == user {
		who.account = &a
	}
	d := newDesk(c)
	var entries []ldapmap.TreeEntry
	var known bool
	down, err := d.ask(func(ctx context.Context, inv *inventory.Inventory) error {
		var err error
		entries, known, err = inv.Tree(ctx, who.host, user)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	if down != nil {
		answers, when, err := d.store.Tree(who.name())
		if err != nil {
			return "", nil, fmt.Errorf("%w; and %w", down, err)
		}
		if err := d.tooOld(when, down); err != nil {
			return "", nil, err
		}
		return formatTree(who, answers), []string{fmt.Sprintf("%s; giving the last known levels of %s",
			oneLine(down), when.UTC().Format(time.RFC3339))}, nil
	}
	if !known && who.account == nil {
		if _, err := account.Local(user); err != nil {
			return "", nil, fmt.Errorf("user %q is neither in the inventory nor in /etc/passwd", user)
		}
	}
	var answers []cache.Answer
	var definitions []*ldapmap.Resolution
	for _, e := range entries {
		if e.Err != nil {
			warnings = append(warnings, fmt.Sprintf("user %s: %s is left out: %s", user, e.Component, oneLine(e.Err)))
			continue
		}
		answers = append(answers, cache.AnswerOf(e.Resolution))
		definitions = append(definitions, e.Resolution)
	}
	if len(answers) == 0 {
		return "", warnings, fmt.Errorf("user %q has no level of any component", user)
	}
	// Without a server all of the tree can be mounted, not only what was before.
	err = errors.Join(d.store.SaveTree(who.name(), answers), d.store.SaveMissingLevels(definitions))
	return formatTree(who, answers), slices.Concat(warnings, cacheWarning(err)), nil
}

// format is the map line. All of it has passed a whitelist, so that nothing needs
// quoting.
func format(who caller, asked ldapmap.Key, given cache.Answer) string {
	access := "rw"
	if asked.Level != "" {
		access = "ro"
	}
	return fmt.Sprintf("-fstype=levelfs,%s%s%s :%s\n", access, who.options(), above(given), given.Level)
}

// above is the option that names the customisation layers above the level, topmost first.
func above(given cache.Answer) string {
	if len(given.Above) == 0 {
		return ""
	}
	return ",above=" + strings.Join(given.Above, ":")
}

// formatTree is the map line of a user: an offset for each component, which automount
// mounts when it is entered.
func formatTree(who caller, answers []cache.Answer) string {
	var line strings.Builder
	for i, a := range answers {
		if i > 0 {
			line.WriteByte(' ')
		}
		fmt.Fprintf(&line, "/%s -fstype=levelfs,rw%s%s :%s", a.Level.Component, who.options(), above(a), a.Level)
	}
	line.WriteByte('\n')
	return line.String()
}
