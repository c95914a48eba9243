package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/ldapmap"
)

// changeOptions are those of all verbs that change the inventory.
type changeOptions struct {
	dryRun, force, json bool
	writer              inventory.Writer
}

func (o *changeOptions) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would change for whom, and write nothing")
	cmd.Flags().BoolVar(&o.force, "force", false, "even if callers are left without a level")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().StringVar(&o.writer.BindDN, "bind-dn", "", "write as this DN (default: as [source.write] says)")
	cmd.Flags().StringVar(&o.writer.PasswordFile, "password-file", "", "the file with its password")
}

func whereFlags(cmd *cobra.Command, w *edit.Where) {
	cmd.Flags().BoolVar(&w.Local, "local", false, "in the first source of the configuration")
	cmd.Flags().BoolVar(&w.Central, "central", false, "in the last source of the configuration")
	cmd.MarkFlagsMutuallyExclusive("local", "central")
}

// A doer is what becomes of a command line that says what is wanted: it is done, or
// collected for a dry run of several.
type doer func(cmd *cobra.Command, wanted edit.Intention, o changeOptions) error

// changeVerbs are the verbs that change the inventory.
func changeVerbs(do doer) []*cobra.Command {
	return []*cobra.Command{newAssign(do), newUnassign(do), newCustomize(do), newLevel(do), newLayer(do), newProfile(do)}
}

// changeExitStatus is the part of their help that all of them have.
const changeExitStatus = `

What would change for whom is shown first. If callers would be left without a level
that they have now, nothing is written without --force. Each change is made only if
the entry still is as it was looked at, and leaves a record in it.

EXIT STATUS
  0   done, or nothing to change
  1   refused or failed; the reason is on standard error
  64  the command line was wrong`

// A whole is the whole inventory, read at once.
type whole struct {
	edit.Inventory
	config *config.Config
	stores []ldapmap.Store
}

func (w *whole) close() {
	for _, s := range w.stores {
		s.Close()
	}
}

// loadWhole reads everything: as those who look, or as the writer.
func loadWhole(cmd *cobra.Command, more []ldapmap.Term, writer *inventory.Writer) (*whole, error) {
	c, err := config.Load()
	if err != nil {
		return nil, err
	}
	w := &whole{config: c}
	if writer != nil && writer.PasswordFile != "" {
		if writer.PasswordFile, err = filepath.Abs(writer.PasswordFile); err != nil {
			return nil, err
		}
	}
	if writer != nil {
		w.stores, err = inventory.OpenStores(c, *writer)
	} else {
		w.stores, err = openReaders(c)
	}
	if err != nil {
		return nil, err
	}
	bar := newProgress(cmd, "reading the inventory")
	f, err := fleet.LoadMore(cmd.Context(), w.stores, more, bar.count())
	bar.end()
	if err != nil {
		w.close()
		return nil, err
	}
	w.Inventory = edit.Inventory{Fleet: f}
	for _, s := range c.Sources {
		w.Files = append(w.Files, s.Type == "ldif")
	}
	return w, nil
}

// openReaders makes the sources as lookups have them.
func openReaders(c *config.Config) ([]ldapmap.Store, error) {
	inv, err := inventory.Open(c)
	if err != nil {
		return nil, err
	}
	return inv.Stores()
}

// A leftError is a change that would leave callers without a level that they have.
type leftError struct {
	lost     []fleet.Change
	commands []string // that would move them
}

func (e *leftError) Error() string {
	return fmt.Sprintf("%s would be left without a level; nothing was written", callers(len(e.lost)))
}

func callers(n int) string {
	if n == 1 {
		return "1 caller"
	}
	return fmt.Sprintf("%d callers", n)
}

// A changeReport is what verbs that change the inventory print.
type changeReport struct {
	Changes []changeLine  `json:"changes"`
	Counts  []edit.Count  `json:"counts"`
	Callers []changeOfOne `json:"callers"`
	DryRun  bool          `json:"dryRun"`
}

// A changeLine is one change of one entry.
type changeLine struct {
	Verb   string `json:"verb"`
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
	DN     string `json:"dn"`
	Source string `json:"source"`
	Serial int    `json:"serial,omitempty"` // of the record, once it is made
	Done   bool   `json:"done"`
}

func (l changeLine) String() string {
	what := l.Verb
	switch {
	case l.Old != "" && l.New != "":
		what += " " + l.Old + " -> " + l.New
	default:
		what += " " + l.Old + l.New
	}
	return fmt.Sprintf("%s on %s in %s", what, l.DN, l.Source)
}

// A changeOfOne is a caller who would get something else.
type changeOfOne struct {
	Caller    string `json:"caller"`
	Component string `json:"component"`
	Old       string `json:"old,omitempty"`
	New       string `json:"new,omitempty"`
	Why       string `json:"why,omitempty"` // no new level
	// Layers above the level, topmost first, where they would be others.
	OldAbove []string `json:"oldAbove,omitempty"`
	NewAbove []string `json:"newAbove,omitempty"`
}

// hostsLevel stands for what a user without rules runs.
const hostsLevel = "(the host's)"

func newChangeReport(p *edit.Preview) *changeReport {
	r := &changeReport{Changes: []changeLine{}, Counts: p.Counts(), Callers: []changeOfOne{}}
	for _, s := range p.Steps {
		r.Changes = append(r.Changes, changeLine{Verb: s.Verb, Old: s.Old, New: s.New, DN: s.DN, Source: p.Before.Sources()[s.Source].Name()})
	}
	for _, c := range p.Changes {
		one := changeOfOne{Caller: c.After.Caller.String(), Component: c.After.Component, Old: c.Before.Level, New: c.After.Level}
		if !c.OwnBefore {
			one.Old = hostsLevel
		}
		if !c.OwnAfter {
			one.New = hostsLevel
		} else if c.After.Err != nil {
			one.Why = edit.Why(c.After.Err)
		}
		if c.Customized() {
			one.OldAbove, one.NewAbove = c.Before.Above, c.After.Above
		}
		r.Callers = append(r.Callers, one)
	}
	return r
}

// write is the summary for people, with the first callers of many.
func (r *changeReport) write(out io.Writer, most int) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, l := range r.Changes {
		fmt.Fprintf(w, "change: %s\n", l)
	}
	for _, c := range r.Counts {
		fmt.Fprintln(w, c)
	}
	if len(r.Changes) > 0 && len(r.Counts) == 0 {
		fmt.Fprintln(w, "nobody runs another level by it")
	}
	for _, c := range r.Callers[:min(most, len(r.Callers))] {
		fmt.Fprintf(w, "  %s\t%s\t-> %s\n", c.Caller, stacked(c.Old, c.OldAbove), stacked(c.New, c.NewAbove))
	}
	if left := len(r.Callers) - most; left > 0 {
		fmt.Fprintf(w, "  and %d more\n", left)
	}
	return w.Flush()
}

// stacked is a level with the layers above it.
func stacked(level string, above []string) string {
	return strings.Join(append([]string{orDash(level)}, above...), " + ")
}

// mostCallers is how many callers a summary names.
const mostCallers = 20

// doChange does what is wanted: it reads the inventory, shows what would change for
// whom, and writes it.
func doChange(cmd *cobra.Command, wanted edit.Intention, o changeOptions) error {
	return doChangeIf(cmd, wanted, o, func(*whole, io.Writer) error { return nil })
}

// doChangeIf is doChange, and asks first whether it may, with the inventory as it was
// read. What that says for people goes to the writer.
func doChangeIf(cmd *cobra.Command, wanted edit.Intention, o changeOptions, may func(*whole, io.Writer) error) (err error) {
	writer := &o.writer
	if o.dryRun {
		writer = nil // who may look may try
	}
	all, err := loadWhole(cmd, wanted.Terms(), writer)
	if err != nil {
		return err
	}
	defer all.close()
	out := cmd.OutOrStdout()
	if o.json {
		out = io.Discard
	}
	if err := may(all, out); err != nil {
		return err
	}
	p, err := lookWithProgress(cmd, all.Inventory, []edit.Intention{wanted})
	if err != nil {
		return err
	}
	r := newChangeReport(p)
	r.DryRun = o.dryRun
	if o.json {
		defer func() { err = errors.Join(err, writeJSON(cmd.OutOrStdout(), r)) }()
	}
	if err := r.write(out, mostCallers); err != nil {
		return err
	}
	if lost := p.Lost(); len(lost) > 0 && !o.force {
		return &leftError{lost: lost, commands: movers(p, wanted)}
	}
	switch {
	case len(p.Steps) == 0:
		_, err = fmt.Fprintln(out, "nothing to change: it is so already")
		return err
	case o.dryRun:
		_, err = fmt.Fprintln(out, "dry run: nothing was written")
		return err
	}
	return apply(cmd.Context(), out, all.stores, p.Steps, r)
}

func lookWithProgress(cmd *cobra.Command, inv edit.Inventory, wanted []edit.Intention) (*edit.Preview, error) {
	bar := newProgress(cmd, "asking for every caller")
	defer bar.end()
	return edit.Look(cmd.Context(), inv, wanted, bar.of())
}

// apply makes the steps, each by itself. Those before one that fails are made, and said
// to be: at the end, so that nobody who stops reading stops the change halfway.
func apply(ctx context.Context, out io.Writer, stores []ldapmap.Store, steps []edit.Step, r *changeReport) (err error) {
	var done strings.Builder
	defer func() {
		_, writeErr := io.WriteString(out, done.String())
		err = errors.Join(err, writeErr)
	}()
	who := make(map[int]string)
	for i, s := range steps {
		store := stores[s.Source]
		if _, known := who[s.Source]; !known {
			name, err := store.Identity(ctx)
			if err != nil {
				return err
			}
			who[s.Source] = name
		}
		e, record, err := s.Edit(who[s.Source], time.Now())
		if err != nil {
			return err
		}
		if err := store.Apply(ctx, e); err != nil {
			return err
		}
		r.Changes[i].Serial, r.Changes[i].Done = record.Serial, true
		recorded := fmt.Sprintf("recorded as serial %d", record.Serial)
		if s.Remove {
			recorded = "with its history"
		}
		if len(steps) > 1 {
			recorded += " on " + s.DN
		}
		fmt.Fprintf(&done, "done, %s\n", recorded)
	}
	return nil
}

// movers are the commands that would give those who run a level that is to be retired
// another one, where they are assigned it.
func movers(p *edit.Preview, wanted edit.Intention) []string {
	retire, ok := wanted.(edit.Retire)
	if !ok {
		return nil
	}
	next := retire.Successor
	if next == "" {
		next = "LEVEL"
	}
	var commands []string
	for _, c := range p.Lost() {
		who, ok := edit.Assigner(p.Before.Fleet, c.Before.Rule)
		if c.Before.Level != retire.Key.String() || !ok {
			continue
		}
		command := fmt.Sprintf("levelfs assign %s %s=%s", who, retire.Key.Component, next)
		if c.Before.Rule.Mandatory {
			command += " --mandatory"
		}
		if !slices.Contains(commands, command) {
			commands = append(commands, command)
		}
	}
	return commands
}

// parseLevels reads COMPONENT=LEVEL.
func parseLevels(args []string) ([]ldapmap.Key, error) {
	var keys []ldapmap.Key
	for _, arg := range args {
		component, level, _ := strings.Cut(arg, "=")
		key, err := ldapmap.ParseKey(component + "@" + level)
		if err != nil || key.Level == "" {
			return nil, &usageError{fmt.Sprintf("invalid assignment %q: want COMPONENT=LEVEL", arg)}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// parseComponents reads names of components.
func parseComponents(args []string) ([]string, error) {
	for _, arg := range args {
		if key, err := ldapmap.ParseKey(arg); err != nil || key.Level != "" {
			return nil, &usageError{fmt.Sprintf("invalid component %q", arg)}
		}
	}
	return args, nil
}

// parseLevelKey reads COMPONENT@LEVEL.
func parseLevelKey(arg string) (ldapmap.Key, error) {
	key, err := ldapmap.ParseKey(arg)
	if err != nil || key.Level == "" {
		return key, &usageError{fmt.Sprintf("invalid level %q: want COMPONENT@LEVEL", arg)}
	}
	return key, nil
}
