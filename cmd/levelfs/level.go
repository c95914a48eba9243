package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

// newLevel has the verbs that change levels.
func newLevel(do doer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "level",
		Short: "Show, publish, release and retire levels",
		Args:  cobra.NoArgs,
		RunE:  needsVerb,
	}
	cmd.AddCommand(newLevelPublish(do), newLevelRelease(do), newLevelRetire(do))
	return cmd
}

func newLevelPublish(do doer) *cobra.Command {
	var o changeOptions
	var wanted edit.Publish
	var files []string
	var notBefore, notAfter string
	cmd := &cobra.Command{
		Use:   "publish COMPONENT@LEVEL --layer NAME... [--layers-from FILE.ldif...]",
		Short: "Add a level to the inventory",
		Long: `Add a level to the inventory, in state test: it is given to those who ask for it by
name, on their own entry or through a profile, and to nobody else until it is
released. A level never changes afterwards: what is new is another level.

Layers are named topmost first. Those in the LDIF that "levelfs layer build" printed
are added to the inventory, and lie in their order below those that --layer names. A
layer that is there already with the same digest is used as it is.

A component that is not there yet is made with --create-component, and then
--mount-point and --private may say where it lies and what becomes of what is written
into it.

` + sourceHelp + changeExitStatus,
		Example: `  levelfs level publish emacs@30.1-1 --layers-from emacs-30.1.ldif --layer emacs-30.1 --layer emacs-common
  levelfs level publish jdk@21 --layers-from jdk-21.ldif --create-component --private none`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if wanted.Key, err = parseLevelKey(args[0]); err != nil {
				return err
			}
			if wanted.State != "draft" && wanted.State != "test" {
				return &usageError{fmt.Sprintf("--state %q: want draft or test; \"levelfs level release\" makes it released", wanted.State)}
			}
			if len(wanted.Layers)+len(files) == 0 {
				return &usageError{"levelfs level publish needs --layer or --layers-from"}
			}
			if !wanted.Create && (wanted.MountPoint != "" || wanted.Private != "") {
				return &usageError{"--mount-point and --private are of a new component: --create-component"}
			}
			if wanted.NotBefore, err = parseTime("--not-before", notBefore); err != nil {
				return err
			}
			if wanted.NotAfter, err = parseTime("--not-after", notAfter); err != nil {
				return err
			}
			if !wanted.NotAfter.IsZero() && !wanted.NotBefore.Before(wanted.NotAfter) {
				return &usageError{fmt.Sprintf("a level that may not be run before %s cannot end at %s", notBefore, notAfter)}
			}
			for _, file := range files {
				entries, err := ldifsource.File(file)
				if err != nil {
					return err
				}
				wanted.NewLayers = append(wanted.NewLayers, entries...)
			}
			return do(cmd, wanted, o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&wanted.Layers, "layer", nil, "a layer, topmost first")
	f.StringArrayVar(&files, "layers-from", nil, "a file of layers' entries, which are added")
	f.StringVar(&wanted.State, "state", "test", "draft or test")
	f.StringArrayVar(&wanted.Packages, "package", nil, "a package that it holds: NAME-[EPOCH:]VERSION-RELEASE.ARCH")
	f.StringVar(&notBefore, "not-before", "", "when it may be run first, such as 2027-01-31T06:00:00Z")
	f.StringVar(&notAfter, "not-after", "", "when it may be run last")
	f.StringVar(&wanted.Description, "description", "", "what it is")
	f.BoolVar(&wanted.Create, "create-component", false, "make the component if it is not there")
	f.StringVar(&wanted.MountPoint, "mount-point", "", "where a new component is to lie, for direct maps")
	f.StringVar(&wanted.Private, "private", "", "persistent, ephemeral or none, for a new component (default: persistent)")
	f.StringVar(&wanted.In, "in", "", "the DN below which to make a new component")
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

// parseTime reads a time with its zone, or a day, which begins in UTC.
func parseTime(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly, "20060102150405Z"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, &usageError{fmt.Sprintf("%s %q: want a time such as 2027-01-31T06:00:00Z or 2027-01-31", flag, s)}
}

func newLevelRelease(do doer) *cobra.Command {
	var o changeOptions
	var wanted edit.Release
	cmd := &cobra.Command{
		Use:   "release COMPONENT@LEVEL",
		Short: "Make a level final: anybody may run it, its layers are sealed",
		Long: `Release a level that is in state draft or test. In the same change its seal is
written, a digest over its name and its layers: from then on a level with other layers
is refused wherever it is used.

A level of which a layer is missing or has no image is not released.

` + sourceHelp + changeExitStatus,
		Example:           `  levelfs level release emacs@30.1-1`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if wanted.Key, err = parseLevelKey(args[0]); err != nil {
				return err
			}
			return do(cmd, wanted, o)
		},
	}
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

func newLevelRetire(do doer) *cobra.Command {
	var o changeOptions
	var wanted edit.Retire
	cmd := &cobra.Command{
		Use:   "retire COMPONENT@LEVEL",
		Short: "Take a level out of use",
		Long: `Retire a level: it is not mounted any more, and who asks for it is told its successor.
Views of it that are mounted stay. While callers still get the level it is refused,
and the commands that would move them are shown.

` + sourceHelp + changeExitStatus,
		Example:           `  levelfs level retire emacs@29.4-1 --successor 30.1-1`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if wanted.Key, err = parseLevelKey(args[0]); err != nil {
				return err
			}
			if wanted.Successor != "" {
				// With the component or without.
				name := strings.TrimPrefix(wanted.Successor, wanted.Key.Component+"@")
				if _, err := parseLevelKey(wanted.Key.Component + "@" + name); err != nil {
					return err
				}
				wanted.Successor = name
			}
			return do(cmd, wanted, o)
		},
	}
	cmd.Flags().StringVar(&wanted.Successor, "successor", "", "the level to run instead")
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

// addLevelReads adds the verbs that only look.
func addLevelReads(cmd *cobra.Command) {
	cmd.AddCommand(newLevelList(), newLevelShow(), newLevelHistory())
}

// A levelInfo is one level as lists show it.
type levelInfo struct {
	Component string `json:"component"`
	ldapmap.Level
	Source  string `json:"source"`
	Default bool   `json:"default"` // what callers run to whom nothing else assigns a level
	Callers *int   `json:"callers,omitempty"`
	Error   string `json:"error,omitempty"` // the entry is not one of a level
}

// levels are all levels of a component, or of all, by name. A later source's entry of
// the same name is not what lookups take, and left out.
func (w *whole) levels(component string) []levelInfo {
	infos := []levelInfo{}
	defaults := make(map[string]string)
	seen := make(map[string]bool)
	for _, s := range w.Sources() {
		for _, e := range s.Entries() {
			cn := e.First("cn")
			name, _, _ := strings.Cut(cn, "@")
			switch {
			case ldapmap.IsComponent(e) && defaults[cn] == "":
				defaults[cn] = e.First("levelfsdefault")
			case ldapmap.IsLevel(e) && !seen[cn] && (component == "" || component == name):
				seen[cn] = true
				info := levelInfo{Component: name, Source: s.Name()}
				level, err := e.Level()
				if err != nil {
					info.Error = err.Error()
				}
				info.Level = level
				info.Level.Name, info.Level.DN = cn, e.DN
				infos = append(infos, info)
			}
		}
	}
	for i := range infos {
		_, level, _ := strings.Cut(infos[i].Name, "@")
		infos[i].Default = level != "" && defaults[infos[i].Component] == level
	}
	slices.SortStableFunc(infos, func(a, b levelInfo) int {
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Name, b.Name))
	})
	return infos
}

// count finds out how many callers run each of the levels.
func (w *whole) count(cmd *cobra.Command, infos []levelInfo) error {
	running := make(map[string]int)
	asked := make(map[string]bool)
	for _, info := range infos {
		if asked[info.Component] {
			continue
		}
		asked[info.Component] = true
		answers, err := w.whoWithProgress(cmd, info.Component)
		if err != nil {
			return err
		}
		for _, a := range answers {
			running[a.Level]++
		}
	}
	for i := range infos {
		n := running[infos[i].Name]
		infos[i].Callers = &n
	}
	return nil
}

// validity is a level's window for people.
func validity(l ldapmap.Level) string {
	day := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return strings.TrimSuffix(t.UTC().Format(time.RFC3339), "T00:00:00Z")
	}
	if l.NotBefore.IsZero() && l.NotAfter.IsZero() {
		return "-"
	}
	return day(l.NotBefore) + ".." + day(l.NotAfter)
}

func newLevelList() *cobra.Command {
	var count, asJSON bool
	cmd := &cobra.Command{
		Use:   "list [COMPONENT]",
		Short: "List levels",
		Long: `List the levels of a component, or of all: state, validity, layers (topmost first), a
mark at the component's default, and with --count how many callers run each.

EXIT STATUS
  0   done
  1   there is no such component, or the inventory could not be read
  64  the command line was wrong`,
		Example: `  levelfs level list
  levelfs level list emacs --count`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			component := ""
			if len(args) > 0 {
				if _, err := parseComponents(args); err != nil {
					return err
				}
				component = args[0]
			}
			all, err := loadWhole(cmd, nil, nil)
			if err != nil {
				return err
			}
			defer all.close()
			if component != "" && !slices.Contains(all.Components(), component) {
				return &ldapmap.NotFoundError{What: "component", Name: component}
			}
			infos := all.levels(component)
			if count {
				if err := all.count(cmd, infos); err != nil {
					return err
				}
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), infos)
			}
			return writeLevels(cmd.OutOrStdout(), infos, count)
		},
	}
	cmd.Flags().BoolVar(&count, "count", false, "count the callers who run each level")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeLevels(out io.Writer, infos []levelInfo, count bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	head := "COMPONENT\tLEVEL\tSTATE\tVALID\tDEFAULT"
	if count {
		head += "\tCALLERS"
	}
	fmt.Fprintln(w, head+"\tLAYERS")
	for _, i := range infos {
		_, level, _ := strings.Cut(i.Name, "@")
		mark := "-"
		if i.Default {
			mark = "*"
		}
		line := strings.Join([]string{i.Component, orDash(level), orDash(i.State), validity(i.Level), mark}, "\t")
		if count {
			line += fmt.Sprintf("\t%d", *i.Callers)
		}
		what := spaced(i.Layers)
		if i.Error != "" {
			what = i.Error
		}
		fmt.Fprintln(w, line+"\t"+what)
	}
	return w.Flush()
}

// fewRecords is how many of the last changes are shown along with other things.
const fewRecords = 5

// A levelShow is all about one level, or one component.
type levelShow struct {
	Component   *ldapmap.Component `json:"component,omitempty"`
	Owners      []string           `json:"owners,omitempty"`
	Level       *levelInfo         `json:"level,omitempty"`
	Description string             `json:"description,omitempty"`
	Sealed      string             `json:"sealed,omitempty"` // yes, no, or broken
	Packages    []string           `json:"packages,omitempty"`
	Layers      []ldapmap.Layer    `json:"layers,omitempty"` // topmost first
	AssignedBy  map[string]int     `json:"assignedBy"`       // kind of entry -> how many
	Levels      []levelInfo        `json:"levels,omitempty"` // of a component
	History     []edit.Event       `json:"history"`          // newest first
	Error       string             `json:"error,omitempty"`  // why it could not be run
}

func newLevelShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show KEY",
		Short: "Show all about a component or a level",
		Long: `Show all about a component, or about one level of it: its layers with digests and
images, packages, seal, successor, how many entries assign it and how many callers run
it, and the last changes.

EXIT STATUS
  0   done
  1   there is none, or the inventory could not be read
  64  the command line was wrong`,
		Example: `  levelfs level show emacs
  levelfs level show emacs@30.1-1`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := ldapmap.ParseKey(args[0])
			if err != nil {
				return &usageError{err.Error()}
			}
			all, err := loadWhole(cmd, nil, nil)
			if err != nil {
				return err
			}
			defer all.close()
			show, err := all.show(cmd, key)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), show)
			}
			return show.write(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (w *whole) show(cmd *cobra.Command, key ldapmap.Key) (*levelShow, error) {
	show := &levelShow{AssignedBy: make(map[string]int), History: edit.History(w.Fleet, key)}
	infos := w.levels(key.Component)
	if err := w.count(cmd, infos); err != nil {
		return nil, err
	}
	for _, s := range w.Sources() {
		for _, e := range s.Entries() {
			show.see(e, key)
		}
	}
	if key.Level == "" {
		show.Levels = infos
		if show.Component == nil {
			return nil, &ldapmap.NotFoundError{What: "component", Name: key.Component}
		}
		return show, nil
	}
	at := slices.IndexFunc(infos, func(i levelInfo) bool { return i.Name == key.String() })
	if at < 0 {
		return nil, &ldapmap.NotFoundError{What: "level", Name: key.String()}
	}
	show.Component, show.Owners, show.Level = nil, nil, &infos[at]
	var err error
	if show.Layers, err = w.layersOf(key); err != nil {
		show.Error = err.Error()
	}
	show.Sealed = "no"
	if show.Level.Seal != "" {
		show.Sealed = "yes"
		var broken *ldapmap.SealError
		if errors.As(err, &broken) {
			show.Sealed = "broken"
		}
	}
	return show, nil
}

// see takes from an entry what it says of the component or the level.
func (show *levelShow) see(e ldapmap.Entry, key ldapmap.Key) {
	switch {
	case ldapmap.IsComponent(e) && e.First("cn") == key.Component:
		if e.First("levelfsdefault") == key.Level && key.Level != "" {
			show.AssignedBy[edit.Default]++
		}
		if show.Component != nil {
			return // lookups take the first source's
		}
		c, err := e.Component()
		if err != nil {
			show.Error = err.Error()
		}
		show.Component, show.Owners = &c, e.Attrs["owner"]
	case ldapmap.IsLevel(e) && key.Level != "" && e.First("cn") == key.String() && show.Packages == nil:
		show.Packages = slices.Sorted(slices.Values(e.Attrs["levelfspackage"]))
		show.Description = e.First("description")
	}
	for _, attr := range []string{"levelfsassignment", "levelfsmandatory"} {
		for _, v := range e.Attrs[attr] {
			component, level, _ := strings.Cut(v, "=")
			if component != key.Component || key.Level != "" && level != key.Level {
				continue
			}
			if c, ok := edit.CallerOf(e); ok {
				show.AssignedBy[c.Kind]++
			}
		}
	}
}

// layersOf are the layers of a level, as far as they are there, and why the level could
// not be run now.
func (w *whole) layersOf(key ldapmap.Key) ([]ldapmap.Layer, error) {
	var r ldapmap.Resolver
	r.Now = w.Now
	for _, s := range w.Sources() {
		r.Sources = append(r.Sources, s)
	}
	// Nobody's rules take part in it, and everything is in memory.
	res, err := r.Resolve(context.Background(), ldapmap.Query{Key: key, Host: "localhost"})
	if res.Layers != nil || res.Level.Name == "" {
		return res.Layers, err
	}
	// Retired, or outside its validity: its layers can be shown all the same.
	for _, name := range res.Level.Layers {
		layer := ldapmap.Layer{Name: name}
		for _, s := range w.Sources() {
			for _, e := range s.Entries() {
				if ldapmap.IsLayer(e) && e.First("cn") == name && layer.DN == "" {
					layer, _ = e.Layer() // shown as far as it can be read
				}
			}
		}
		res.Layers = append(res.Layers, layer)
	}
	return res.Layers, err
}

func (show *levelShow) write(out io.Writer) error {
	if c := show.Component; c != nil {
		fmt.Fprintf(out, "component %s\n", c.Name)
		writeField(out, "description", c.Description)
		writeField(out, "entry", c.DN)
		writeField(out, "owner", show.Owners...)
		writeField(out, "default", c.Default)
		writeField(out, "mount point", c.MountPoint)
		writeField(out, "private", string(c.Private))
	}
	if l := show.Level; l != nil {
		fmt.Fprintf(out, "level %s\n", l.Name)
		writeField(out, "description", show.Description)
		writeField(out, "entry", l.DN)
		writeField(out, "source", l.Source)
		writeField(out, "state", l.State)
		writeField(out, "valid", validity(l.Level))
		writeField(out, "successor", l.Successor)
		writeField(out, "sealed", show.Sealed)
		writeField(out, "packages", show.Packages...)
		writeField(out, "callers", fmt.Sprint(*l.Callers))
	}
	writeField(out, "assigned by", show.assignedBy())
	writeField(out, "not usable", show.Error)
	var layers [][]string
	for _, l := range show.Layers {
		layers = append(layers, []string{l.Name, orDash(l.FSType), orDash(l.Digest), spaced(slices.Concat(l.Images, l.Segments))})
	}
	if err := writeTable(out, "layers", layers); err != nil {
		return err
	}
	var records [][]string
	for _, e := range show.History[:min(fewRecords, len(show.History))] {
		records = append(records, append(recordCells(e.Record), e.DN))
	}
	if err := writeTable(out, "changed", records); err != nil || len(show.Levels) == 0 {
		return err
	}
	fmt.Fprintln(out)
	return writeLevels(out, show.Levels, true)
}

// writeField writes one of a list of facts, nothing without a value.
func writeField(out io.Writer, name string, values ...string) {
	if s := spaced(values); s != "-" {
		fmt.Fprintf(out, "  %-11s  %s\n", name, s)
	}
}

// writeTable writes a fact of several lines, its name at the first.
func writeTable(out io.Writer, name string, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for i, row := range rows {
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(w, "  %-11s  %s\n", name, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func recordCells(r edit.Record) []string {
	return []string{stamp(r.Time), r.Verb, orDash(r.Old), orDash(r.New), r.Who}
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func (show *levelShow) assignedBy() string {
	var parts []string
	for _, kind := range []string{edit.Default, edit.Profile, edit.Group, edit.Host, edit.User} {
		switch n := show.AssignedBy[kind]; {
		case n == 0:
		case kind == edit.Default:
			parts = append(parts, "the default")
		case n == 1:
			parts = append(parts, "1 "+kind)
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", n, kind))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func newLevelHistory() *cobra.Command {
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history KEY",
		Short: "Show who changed what about a component or a level",
		Long: `Show the changes that the inventory remembers of a component, or of one level of it,
newest first: those of the component, of its levels, and of every caller and profile
that was assigned a level of it. An entry remembers its last 100 changes by levelfs;
changes by other means leave no record.

EXIT STATUS
  0   done
  1   the inventory could not be read
  64  the command line was wrong`,
		Example: `  levelfs level history emacs --limit 20
  levelfs level history emacs@30.1-1 --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := ldapmap.ParseKey(args[0])
			if err != nil {
				return &usageError{err.Error()}
			}
			if limit < 0 {
				return &usageError{fmt.Sprintf("--limit %d: want a number of changes, or 0 for all", limit)}
			}
			all, err := loadWhole(cmd, nil, nil)
			if err != nil {
				return err
			}
			defer all.close()
			events := edit.History(all.Fleet, key)
			if limit > 0 {
				events = events[:min(limit, len(events))]
			}
			if asJSON {
				if events == nil {
					events = []edit.Event{}
				}
				return writeJSON(cmd.OutOrStdout(), events)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "TIME\tVERB\tOLD\tNEW\tWHO\tENTRY")
			for _, e := range events {
				fmt.Fprintln(w, strings.Join(append(recordCells(e.Record), e.DN), "\t"))
			}
			return w.Flush()
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "show so many of the last changes (default: all)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
