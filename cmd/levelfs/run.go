package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/internal/trial"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// Exit status of run beside the command's own, as of env(1) and chroot(1).
const (
	exitRunFailed = 125 // run itself
	exitCannotRun = 126 // the command is there, but cannot be executed
	exitNoCommand = 127
)

// runVariable tells a command which levels it has: "emacs@30.1-1 gcc@14.2-1".
const runVariable = "LEVELFS_RUN"

type runOptions struct {
	levels           []string
	profile, private string
	dryRun, json     bool
}

func newRun(args []string, log *logrus.Logger) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [--level COMPONENT@LEVEL]... [--profile NAME] -- COMMAND [ARG]...",
		Short: "Run a command with other levels than are assigned",
		Long: `Run a command for which components are at the given levels, at their usual places.
Nobody else sees them, and nothing in the inventory or in a private layer changes.
All other components are there as they are on the machine. With --profile the command
has all that the profile says; --level goes before it.

What the command writes into the components is thrown away, or with --private kept in
a private layer of that name, for the next run with it. Only one run at a time can use
it. A component without private layers is read-only here, too.

The command takes the place of levelfs: it has its process number, terminal and
signals. When it and all that it has started have ended, all that was mounted is gone.
LEVELFS_RUN in its environment has the names of the levels.

Root mounts the levels from their images. Other users need user namespaces and a tree
that automount serves: a level is then what automount mounts as COMPONENT@LEVEL, and
in it only new files, and those that are the user's own, can be written.

EXIT STATUS
  125  it could not be prepared; the reason is on standard error
  126  the command was found, but cannot be run
  127  the command was not found
  64   the command line was wrong
  or that of the command`,
		Example: `  levelfs run --level emacs@30.1-1 -- emacs -q
  levelfs run --level emacs@30.1-1 --level gcc@14.2-1 --private trial -- make check
  levelfs run --profile next -- sh
  levelfs run --level emacs@30.1-1 --dry-run -- emacs`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, command []string) error {
			return exitOfRun(runRun(cmd, args, command, o, log))
		},
	}
	cmd.Flags().SetInterspersed(false) // the command has options of its own
	cmd.Flags().StringArrayVar(&o.levels, "level", nil, "a level, COMPONENT@LEVEL; may be given for each component")
	cmd.Flags().StringVar(&o.profile, "profile", "", "all levels of a profile")
	cmd.Flags().StringVar(&o.private, "private", "", "keep what is written, under this name")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be mounted, and in which steps")
	cmd.Flags().BoolVar(&o.json, "json", false, "with --dry-run: print JSON")
	for flag, complete := range map[string]cobra.CompletionFunc{
		"level": func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return completeLevels(cmd, toComplete)
		},
		"profile": func(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return named("levelfsProfile", toComplete)
		},
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // there is no such flag: a defect of the lines above
		}
	}
	return cmd
}

// completeLevels offers components with an @ to go on from, and then their levels.
func completeLevels(cmd *cobra.Command, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.Contains(toComplete, "@") {
		return named("levelfsLevel", toComplete)
	}
	names, directive := completeComponents(cmd, nil, toComplete)
	for i := range names {
		names[i] += "@"
	}
	return names, directive | cobra.ShellCompDirectiveNoSpace
}

// exitOfRun gives an error of run its exit status.
func exitOfRun(err error) error {
	var usage *usageError
	var command *trial.CommandError
	switch {
	case err == nil || errors.As(err, &usage):
		return err
	case errors.As(err, &command) && command.NotFound():
		return &checkError{exitNoCommand, err}
	case errors.As(err, &command):
		return &checkError{exitCannotRun, err}
	}
	return &checkError{exitRunFailed, err}
}

// keys are the levels that are given, if the options make sense together.
func (o *runOptions) keys() ([]ldapmap.Key, error) {
	var keys []ldapmap.Key
	for _, level := range o.levels {
		key, err := ldapmap.ParseKey(level)
		if err != nil {
			return nil, &usageError{err.Error()}
		}
		if key.Level == "" {
			return nil, &usageError{fmt.Sprintf("%q is no level: give COMPONENT@LEVEL", level)}
		}
		for _, other := range keys {
			if other.Component == key.Component {
				return nil, &usageError{fmt.Sprintf("two levels of one component: %s and %s", other, key)}
			}
		}
		keys = append(keys, key)
	}
	if o.profile != "" {
		if _, err := profileNamed(o.profile); err != nil {
			return nil, err
		}
	}
	// Named as components are: a path element that needs no quotes anywhere.
	if key, err := ldapmap.ParseKey(o.private); o.private != "" && (err != nil || key.Level != "") {
		return nil, &usageError{fmt.Sprintf("%q cannot be the name of a private layer: use letters, digits and ._+-", o.private)}
	}
	switch {
	case len(keys) == 0 && o.profile == "":
		return nil, &usageError{"which level? give --level or --profile"}
	case o.json && !o.dryRun:
		return nil, &usageError{"--json needs --dry-run: the output is the command's"}
	}
	return keys, nil
}

func runRun(cmd *cobra.Command, args, command []string, o runOptions, log *logrus.Logger) error {
	keys, err := o.keys()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	entered, err := trial.Entered()
	if err != nil {
		return err
	}
	user := os.Geteuid() != 0
	if !entered && !o.dryRun && !user {
		return enter(ctx, user, args)
	}
	r, err := newRunner(keys, user, o, log)
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.resolve(ctx); err != nil {
		return err
	}
	if user {
		if err := r.deliver(ctx); err != nil {
			return err
		}
		if !entered && !o.dryRun {
			return enter(ctx, user, args)
		}
	}
	t, err := r.trial(ctx)
	if err != nil {
		return err
	}
	if o.dryRun {
		return r.write(cmd.OutOrStdout(), t)
	}
	dir, err := os.Getwd() // before the tree is covered
	if err != nil {
		dir = ""
	}
	applier := mounter.Applier{
		Open:   view.Opener(r.config),
		Note:   func(text string) { log.Warn(text) },
		Before: func(step mounter.Step) error { log.Debug(step.Op, " ", step.Path, " ", step.Target); return nil },
	}
	if err := t.Apply(ctx, &applier); err != nil {
		return err
	}
	if err := leaveSignals(ctx); err != nil {
		return err
	}
	return trial.Exec(command, append(os.Environ(), runVariable+"="+r.levels(os.Getenv(runVariable))), dir)
}

// enter goes on in a namespace.
func enter(ctx context.Context, user bool, args []string) error {
	if err := leaveSignals(ctx); err != nil {
		return err
	}
	return trial.Enter(ctx, user, args)
}

// leaveSignals gives the signals that main waits for back to whoever is executed next, those
// that are to be ignored among them. It is an error if one has come already.
func leaveSignals(ctx context.Context) error {
	signal.Reset(hook.Endings()...)
	return ctx.Err()
}

// A runner prepares one run.
type runner struct {
	config  *config.Config
	site    *site // nil: a user who may not read what opens the inventory
	options runOptions
	log     *logrus.Logger
	user    bool
	tries   []try
}

// A try is one level that is tried.
type try struct {
	key       ldapmap.Key
	known     *ldapmap.Resolution // nil: the inventory did not tell
	err       error               // why
	delivered mounter.View        // a user's: the level as automount mounts it
}

func newRunner(keys []ldapmap.Key, user bool, o runOptions, log *logrus.Logger) (*runner, error) {
	c, err := config.Load()
	if err != nil {
		return nil, err
	}
	r := &runner{config: c, options: o, log: log, user: user}
	for _, key := range keys {
		r.tries = append(r.tries, try{key: key})
	}
	if r.site, err = openSite(""); err != nil {
		if !user || o.profile != "" {
			return nil, err
		}
		for i := range r.tries {
			r.tries[i].err = err
		}
	}
	return r, nil
}

func (r *runner) close() {
	if r.site != nil {
		r.site.Close() // nothing was written
	}
}

// resolve asks the inventory what the levels are. To a user it need not tell.
func (r *runner) resolve(ctx context.Context) error {
	if r.site == nil {
		return nil
	}
	ctx, cancel := lookupContext(ctx)
	defer cancel()
	for i := range r.tries {
		t := &r.tries[i]
		resolution, err := r.site.Resolve(ctx, ldapmap.Query{Key: t.key, Host: r.site.host})
		var unusable *ldapmap.UnusableError
		if err != nil && (!r.user || errors.As(err, &unusable)) {
			return err
		}
		if t.err = err; err == nil {
			t.known = resolution
		}
	}
	if r.options.profile == "" {
		return nil
	}
	resolutions, err := r.site.ResolveProfile(ctx, r.options.profile)
	if err != nil {
		return err
	}
	for _, resolution := range resolutions {
		key := resolution.Key()
		if !slices.ContainsFunc(r.tries, func(t try) bool { return t.key.Component == key.Component }) {
			r.tries = append(r.tries, try{key: key, known: resolution})
		}
	}
	if len(r.tries) == 0 {
		return &emptyProfileError{r.options.profile}
	}
	return nil
}

// An emptyProfileError is a profile that assigns nothing.
type emptyProfileError struct{ profile string }

func (e *emptyProfileError) Error() string {
	return fmt.Sprintf("%s %q assigns no levels", edit.Profile, e.profile)
}

// An undeliveredError is a level that automount does not mount by its name.
type undeliveredError struct {
	key, path string
	err       error
}

func (e *undeliveredError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("%s is not to be had at %q: %v", e.key, e.path, e.err)
	}
	return fmt.Sprintf("%s is not to be had at %q: it is no view of it", e.key, e.path)
}

func (e *undeliveredError) Unwrap() error { return e.err }

// deliver has automount mount the levels by their names, as anybody can. What was found
// out by that stands in for what a user may not read in the inventory.
func (r *runner) deliver(ctx context.Context) error {
	machine := trial.Machine(r.config.Tree)
	for i := range r.tries {
		t := &r.tries[i]
		path := filepath.Join(machine, t.key.String())
		err := enterDirectory(ctx, path)
		if err != nil {
			if t.err != nil {
				err = t.err // which says more
			}
			return &undeliveredError{t.key.String(), path, err}
		}
		views, err := mounter.Views()
		if err != nil {
			return err
		}
		at := slices.IndexFunc(views, func(v mounter.View) bool { return v.Target == path && v.Name == t.key.String() && v.ReadOnly })
		if at < 0 {
			return &undeliveredError{t.key.String(), path, nil}
		}
		t.delivered = views[at]
		t.delivered.Target = trial.Covered(r.config.Tree, path)
	}
	return nil
}

// enterDirectory opens a directory that automount may have to mount first, for as long as
// that takes.
func enterDirectory(ctx context.Context, path string) error {
	done := make(chan error, 1)
	go func() {
		f, err := os.Open(filepath.Join(path, "."))
		if err == nil {
			err = f.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// trial plans the namespace.
func (r *runner) trial(ctx context.Context) (*trial.Trial, error) {
	var plans []*mounter.Plan
	for _, t := range r.tries {
		plan, err := r.plan(ctx, t)
		if err != nil {
			return nil, err
		}
		plans = append(plans, plan)
	}
	return trial.New(r.config.Tree, r.user, plans, r.others(ctx))
}

func (r *runner) plan(ctx context.Context, t try) (*mounter.Plan, error) {
	target := filepath.Join(r.config.Tree, t.key.Component)
	var o view.Options
	if t.known != nil {
		if point := t.known.Component.MountPoint; point != "" && point != target {
			// Where it is not, nobody on this machine uses it.
			if info, err := os.Lstat(point); err == nil && info.IsDir() {
				o.Also = []string{point}
			}
		}
	}
	if r.user && t.known == nil {
		r.log.Warnf("%s is read-only and only at %q: the inventory cannot be asked for more: %v", t.key, target, t.err)
	} else {
		var err error
		if o.Private, err = r.private(t); err != nil {
			return nil, err
		}
	}
	if r.user {
		if t.known != nil && t.known.Component.Private == ldapmap.None {
			o.Private = nil
		}
		return view.PlanOver(t.delivered, target, trial.Scratch(r.config.Tree), o)
	}
	return view.Plan(ctx, r.config, t.known, target, o)
}

// private is the private layer of a level that is tried: one that is thrown away, or the
// one of the name that was given, which no other view ever has.
func (r *runner) private(t try) (*mounter.Private, error) {
	p := &mounter.Private{Ephemeral: r.options.private == ""}
	if r.user {
		p.Owner = &mounter.Owner{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	}
	if p.Ephemeral {
		return p, nil
	}
	above := filepath.Join(r.config.PrivateDir(), "run")
	if r.user {
		state, err := userStateDir()
		if err != nil {
			return nil, err
		}
		above = filepath.Join(state, "levelfs", "run")
	}
	p.Dir = filepath.Join(above, r.options.private, t.key.Component)
	return p, nil
}

// userStateDir is where the user keeps what programs leave for their next start (XDG Base
// Directory Specification).
func userStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Clean(dir), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("where to keep the private layer? XDG_STATE_HOME and HOME are not set: %w", err)
	}
	return filepath.Join(home, ".local", "state"), nil
}

// others are the names that the machine's tree may have beside what is mounted in it: it
// cannot be listed.
func (r *runner) others(ctx context.Context) []string {
	var names []string
	if _, err := os.Stat(r.config.UsersMap()); err == nil {
		names = append(names, config.UsersKey)
	}
	if r.site == nil {
		return names
	}
	ctx, cancel := lookupContext(ctx)
	defer cancel()
	components, err := r.site.Components(ctx, "")
	if err != nil {
		r.log.Warnf("other components are only at %q, unless they are mounted: %v", filepath.Join(r.config.Tree, trial.Outside), err)
	}
	for _, c := range components {
		names = append(names, c.Name)
	}
	return names
}

// levels are the names of all that is tried, with those that an outer run has and this one
// leaves.
func (r *runner) levels(outer string) string {
	var names []string
	for _, t := range r.tries {
		names = append(names, t.key.String())
	}
	for _, name := range strings.Fields(outer) {
		key, err := ldapmap.ParseKey(name)
		if err == nil && !slices.ContainsFunc(r.tries, func(t try) bool { return t.key.Component == key.Component }) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// A runReport is what a dry run prints.
type runReport struct {
	*trial.Trial
	Commands []string `json:"commands"`
}

func (r *runner) write(out io.Writer, t *trial.Trial) error {
	report := runReport{t, t.Commands()}
	if r.options.json {
		return writeJSON(out, report)
	}
	var text strings.Builder
	for _, p := range t.Plans {
		private := "read-only"
		switch {
		case p.Private != nil && p.Private.Ephemeral:
			private = "what is written is thrown away"
		case p.Private != nil:
			private = "what is written is kept in " + p.Private.Dir
		}
		fmt.Fprintf(&text, "%s: %s; %s\n", strings.Join(append([]string{p.Target}, p.Also...), ", "), p.Name, private)
	}
	fmt.Fprintln(&text, "\nSteps, as commands:")
	for _, line := range report.Commands {
		fmt.Fprintf(&text, "  %s\n", line)
	}
	_, err := io.WriteString(out, text.String())
	return err
}
