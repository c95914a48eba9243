package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// idlePoll is how often a view that is in use is tried again.
const idlePoll = 100 * time.Millisecond

// switchOptions are those of all verbs that change the level of mounted views.
type switchOptions struct {
	to, user                  string
	dryRun, whenIdle, discard bool
	wait                      time.Duration
	stale                     string // warn or stop; "": as the component or the machine says
	json                      bool
}

func (o *switchOptions) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be done, and in which steps")
	cmd.Flags().BoolVar(&o.whenIdle, "when-idle", false, "wait until no file in the view is open for writing")
	cmd.Flags().DurationVar(&o.wait, "wait", time.Minute, "how long to wait with --when-idle")
	cmd.Flags().BoolVar(&o.discard, "discard", false, "replace a view even if its private layer is in memory: what is in it is lost")
	cmd.Flags().StringVar(&o.stale, "stale", "", "if private files would be stale: warn or stop (default: as the component says, or levelfs.toml)")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
}

// check is for what the flags cannot check by themselves.
func (o *switchOptions) check() error {
	if o.stale != "" && o.stale != staleWarn && o.stale != staleStop {
		return &usageError{fmt.Sprintf("--stale %q: want warn or stop", o.stale)}
	}
	return nil
}

func newSwitch(log *logrus.Logger) *cobra.Command {
	var o switchOptions
	cmd := &cobra.Command{
		Use:   "switch COMPONENT",
		Short: "Change the level of a mounted view, under those who use it",
		Long: `Give the mounted view of a component another level: the one that the inventory
assigns now, or with --to any other, until the next mount or refresh.

The new view is made as a whole, with every image checked, before the old one is
touched. It takes over the private layer and the mount point at one instant: who
opens a file gets the one level or the other. Who has a file open keeps it, and who
is in a directory of the old view stays in it; there nothing can be written any more.
For some milliseconds writes fail with EROFS. While a file in the view is open for
writing it is refused, with the names of those who have one.

If it fails the old view stays as it was. If it is killed, the next switch, refresh,
rollback or mount puts right what is left.

Before that, the private files are compared with the level that is to come, as by
"levelfs diff --to": those that would be stale are named. Where the component has
levelfsOnStale: stop, or levelfs.toml on-stale = "stop", it is refused then.

Programs in /etc/levelfs/hooks.d/switch.d are run before and after it. If one of those
before it fails nothing is changed; if one of those after it fails, the level stays.

A view that was mounted by the name of its level, COMPONENT@LEVEL, is not changed.

EXIT STATUS
  0   the view has the level now, or had it already
  1   failed, and the old view stays; or a hook after the change failed: the reason
      is on standard error
  64  the command line was wrong`,
		Example: `  levelfs switch emacs
  levelfs switch emacs --to 29.4-1 --when-idle
  levelfs switch emacs --user rob --dry-run`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSwitch(cmd, args[0], o, log)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.to, "to", "", "the level (default: the one that is assigned)")
	cmd.Flags().StringVar(&o.user, "user", "", "whose view (default: the host's)")
	return cmd
}

// A switchReport says what became of one view.
type switchReport struct {
	Target   string            `json:"target"`
	User     string            `json:"user,omitempty"`
	From     string            `json:"from"`
	To       string            `json:"to,omitempty"`
	Changed  bool              `json:"changed"`
	Seconds  float64           `json:"seconds,omitempty"`  // that the change took, without comparison and hooks
	Stale    *staleReport      `json:"stale,omitempty"`    // nil: there are no private files
	Remnants []mounter.Remnant `json:"remnants,omitempty"` // mount namespaces where the old view stays
	Plan     *mounter.Plan     `json:"plan,omitempty"`     // of a dry run
	Commands []string          `json:"commands,omitempty"`
	Hooks    []hookReport      `json:"hooks,omitempty"`     // of a dry run
	Error    string            `json:"error,omitempty"`     // it was not changed
	After    string            `json:"hookError,omitempty"` // it was, and a hook after it failed

	err error // with or without a change
}

// A switcher changes views of this machine.
type switcher struct {
	*site
	options switchOptions
	out     io.Writer
	stderr  io.Writer
	log     *logrus.Logger
	views   []mounter.View
	hear    func() // ends hook.Deafen; nil for a dry run
}

// newSwitcher opens the inventory, looks what is mounted, and ends switches that were
// interrupted: of the component, or, if it is "", all.
func newSwitcher(ctx context.Context, out io.Writer, component string, o switchOptions, log *logrus.Logger) (*switcher, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	views, err := mounter.Views()
	if err != nil {
		return nil, err
	}
	s, err := openSite("")
	if err != nil {
		return nil, err
	}
	sw := &switcher{site: s, options: o, out: out, stderr: log.Out, log: log, views: views}
	if o.dryRun {
		return sw, nil
	}
	if os.Geteuid() != 0 {
		s.Close()
		return nil, fmt.Errorf("change a view: %w", fs.ErrPermission)
	}
	sw.hear = hook.Deafen()
	var concerned []mounter.View
	for _, v := range views {
		if component == "" || componentOf(v) == component {
			concerned = append(concerned, v)
		}
	}
	healed, err := heal(ctx, s.config, concerned, log)
	if err == nil && healed {
		sw.views, err = mounter.Views()
	}
	if err != nil {
		sw.Close()
		return nil, err
	}
	return sw, nil
}

// Close ends what newSwitcher has begun.
func (s *switcher) Close() {
	if s.hear != nil {
		s.hear()
	}
	s.site.Close()
}

// heal ends interrupted switches, says so, and reports whether there were any.
func heal(ctx context.Context, c *config.Config, views []mounter.View, log *logrus.Logger) (some bool, err error) {
	healed, err := mounter.Heal(ctx, c.RunDir(), views)
	for _, i := range healed {
		log.Warnf("%v, as a change of level was interrupted: healed", i)
	}
	return len(healed) > 0, err
}

func componentOf(v mounter.View) string { return componentPart(v.Name) }

// componentPart is the component of a level's full name.
func componentPart(level string) string {
	component, _, _ := strings.Cut(level, "@")
	return component
}

// of are the views of a component that a user has, or the host, but for those of a level
// by name.
func (s *switcher) of(component, user string) ([]mounter.View, error) {
	var found []mounter.View
	for _, v := range s.views {
		if componentOf(v) == component && view.UserOf(s.config, v) == user && !view.Pinned(v) {
			found = append(found, v)
		}
	}
	if len(found) == 0 {
		return nil, &notMountedError{component, user}
	}
	return found, nil
}

// A notMountedError is a component of which there is no view to change.
type notMountedError struct{ component, user string }

func (e *notMountedError) Error() string {
	if e.user != "" {
		return fmt.Sprintf("no view of %q is mounted for user %q", e.component, e.user)
	}
	return fmt.Sprintf("no view of %q is mounted", e.component)
}

// parseComponent is for verbs that are about views of components.
func parseComponent(arg string) (string, error) {
	key, err := ldapmap.ParseKey(arg)
	if err != nil {
		return "", &usageError{err.Error()}
	}
	if key.Level != "" {
		return "", &usageError{fmt.Sprintf("%q is a level, and its view never changes: give the component", arg)}
	}
	return key.Component, nil
}

func runSwitch(cmd *cobra.Command, arg string, o switchOptions, log *logrus.Logger) error {
	component, err := parseComponent(arg)
	if err != nil {
		return err
	}
	key := ldapmap.Key{Component: component}
	if o.to != "" {
		if key, err = ldapmap.ParseKey(component + "@" + strings.TrimPrefix(o.to, component+"@")); err != nil {
			return &usageError{err.Error()}
		}
	}
	s, err := newSwitcher(cmd.Context(), cmd.OutOrStdout(), component, o, log)
	if err != nil {
		return err
	}
	defer s.Close()
	views, err := s.of(component, o.user)
	if err != nil {
		return err
	}
	r, err := s.resolve(cmd.Context(), key, o.user)
	if err != nil {
		return err
	}
	var reports []switchReport
	var errs []error
	for _, v := range views {
		report, err := s.change(cmd.Context(), v, r)
		reports, errs = append(reports, report), append(errs, err)
	}
	s.report(cmd.Context(), reports)
	return errors.Join(append(errs, s.write(reports))...)
}

// resolve asks the inventory which level it is, and what that is made of, with what lies
// above it for the caller: also where the level is named, since the view stays his.
func (s *switcher) resolve(ctx context.Context, key ldapmap.Key, user string) (*ldapmap.Resolution, error) {
	ctx, cancel := lookupContext(ctx)
	defer cancel()
	return s.Resolve(ctx, ldapmap.Query{Key: key, Host: s.host, User: user, Customized: true})
}

// known is resolve for a level that this machine has had: if no server answers, its last
// definition will do, and above it stays what is there now.
func (s *switcher) known(ctx context.Context, key ldapmap.Key, user string, above []string) (*ldapmap.Resolution, error) {
	r, err := s.resolve(ctx, key, user)
	var down *ldapmap.UnavailableError
	if !errors.As(err, &down) {
		return r, err
	}
	store := cache.Cache{Dir: s.config.CacheDir()}
	old, when, cacheErr := store.Level(key.String())
	if cacheErr != nil {
		return nil, err
	}
	if old.Above, _, cacheErr = store.Above(above); cacheErr != nil {
		return nil, errors.Join(err, cacheErr)
	}
	s.log.Warnf("%v; using the definition of %s", err, when.UTC().Format(time.RFC3339))
	return old, nil
}

// change gives the view the level. The error is in the report, too.
func (s *switcher) change(ctx context.Context, v mounter.View, r *ldapmap.Resolution) (report switchReport, err error) {
	start := time.Now()
	user := view.UserOf(s.config, v)
	report = switchReport{Target: v.Target, User: user, From: v.Name, To: r.Level.Name}
	defer func() {
		report.err = err
		if err != nil && !report.Changed {
			report.Error = err.Error()
		}
	}()
	plan, err := view.Plan(ctx, s.config, r, v.Target, view.Options{User: user, Replaces: &v, Discard: s.options.discard})
	if err != nil {
		return report, err
	}
	if plan.Shows(v) {
		s.remember(r, user)
		return report, nil
	}
	planned := time.Since(start)
	if s.options.dryRun {
		report.Plan, report.Commands = plan, plan.Commands()
		if report.Hooks, err = reportHooks(s.config, hook.Switch); err != nil {
			return report, err
		}
	}
	if report.Stale, err = s.compare(ctx, plan, r, user); err != nil {
		return report, err
	}
	if s.options.dryRun {
		return report, nil
	}
	// As a mount has the map do: who looks at the view later finds what it is made of.
	if err := (cache.Cache{Dir: s.config.CacheDir(), Limit: s.config.CacheSize.Bytes}).SaveMissingLevels([]*ldapmap.Resolution{r}); err != nil {
		s.log.Warnf("keep the definition of %s: %v", r.Level.Name, err)
	}
	err, after := s.withHooks(ctx, plan, r.Component.Name, user, func() error {
		start = time.Now()
		if err := s.apply(ctx, plan); err != nil {
			return err
		}
		report.Seconds = (planned + time.Since(start)).Seconds()
		return nil
	})
	if err != nil {
		return report, errors.Join(err, after)
	}
	report.Changed = true
	s.remember(r, user)
	if after != nil {
		report.After = after.Error()
	}
	if report.Remnants, err = mounter.Remnants(v); err != nil {
		s.log.Warnf("is the old view mounted elsewhere? %v", err)
	}
	for _, old := range report.Remnants {
		s.log.Warnf("%s stays at %q, read-only, in the mount namespace of process %d (%s)", v.Name, old.Target, old.PID, old.Command)
	}
	return report, after
}

// remember keeps a level that is assigned as what the caller was given last, as the map does:
// while no server answers, the next mount goes by that, and must not go back to the level
// before. What was named, as by --to, is until the next mount only.
func (s *switcher) remember(r *ldapmap.Resolution, user string) {
	if key := r.Query.Key; s.options.dryRun || key.Component == "" || key.Level != "" {
		return
	}
	store, caller := cache.Cache{Dir: s.config.CacheDir(), Limit: s.config.CacheSize.Bytes}, s.host
	answer := cache.AnswerOf(r)
	if user != "" {
		caller = user + "@" + s.host
	}
	err := store.SaveAnswer(caller, answer)
	if tree, _, none := store.Tree(caller); none == nil {
		i := slices.IndexFunc(tree, func(a cache.Answer) bool { return a.Level.Component == answer.Level.Component })
		if i >= 0 && tree[i].String() != answer.String() {
			tree[i] = answer
			err = errors.Join(err, store.SaveTree(caller, tree))
		}
	}
	if err != nil {
		s.log.Warnf("keep that %s is the level of %s: %v", r.Level.Name, caller, err)
	}
}

// apply executes the plan, again and again if it may wait until nobody is in the way.
func (s *switcher) apply(ctx context.Context, plan *mounter.Plan) error {
	applier := mounter.Applier{
		Open:   view.Opener(s.config),
		Note:   func(text string) { s.log.Warn(text) },
		Before: func(step mounter.Step) error { s.log.Debug(step.Op, " ", step.Path, " ", step.Target); return nil },
	}
	waitUntil := time.Now().Add(s.options.wait)
	for {
		err := applier.Apply(ctx, plan)
		var busy *mounter.BusyError
		if !errors.As(err, &busy) || !s.options.whenIdle || time.Now().After(waitUntil) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(idlePoll):
		}
	}
}

// write prints the reports; in JSON always as an array.
func (s *switcher) write(reports []switchReport) error {
	if s.options.json {
		if reports == nil {
			reports = []switchReport{}
		}
		return writeJSON(s.out, reports)
	}
	var text strings.Builder
	for _, r := range reports {
		switch {
		case r.Error != "": // which is on standard error
		case r.Changed && r.To == r.From:
			fmt.Fprintf(&text, "%s: %s with other layers (%.1f ms)\n", r.Target, r.To, r.Seconds*1000)
		case r.Changed:
			fmt.Fprintf(&text, "%s: %s, was %s (%.1f ms)\n", r.Target, r.To, r.From, r.Seconds*1000)
		case r.Plan != nil:
			fmt.Fprintf(&text, "%s: would be %s, is %s; steps, as commands:\n", r.Target, r.To, r.From)
			for _, line := range r.Commands {
				fmt.Fprintf(&text, "  %s\n", line)
			}
			for _, h := range r.Hooks {
				h.write(&text)
			}
		default:
			fmt.Fprintf(&text, "%s: %s already\n", r.Target, r.From)
		}
	}
	_, err := io.WriteString(s.out, text.String())
	return err
}

// privateOf is the private layer that the view of a component has, or would have.
func privateOf(c *config.Config, views []mounter.View, component, user string) string {
	for _, v := range views {
		if v.Upper != "" && componentOf(v) == component && view.UserOf(c, v) == user {
			return filepath.Dir(v.Upper)
		}
	}
	return view.PrivateDir(c, user, component)
}
