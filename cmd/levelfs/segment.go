package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/internal/segment/survey"
)

func newSegment(log *logrus.Logger) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "segment",
		Short: "Share layers between z/VM guests",
		Args:  cobra.NoArgs,
		RunE:  needsVerb,
	}
	cmd.AddCommand(newSegmentPlan(log), newSegmentList(log), newSegmentAttach(), newSegmentDetach(), newSegmentRetire(log))
	return cmd
}

type segmentPlanOptions struct {
	hosts, pages             string
	components, states       []string
	all, reuse, asJSON, ldif bool
}

func newSegmentPlan(log *logrus.Logger) *cobra.Command {
	var o segmentPlanOptions
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Give each layer that is run a segment: name and addresses",
		Long: `Find the layers of all levels that hosts and users run, and give each a z/VM segment:
a name, and pages that no other layer has which one guest may use with it. Print the
plan, and the commands that define, fill and save what is new in it. Nothing is changed.

Segments that the inventory has (levelfsSegment, levelfsRange) stay where they are
unless they break a rule: they begin and end at 2 MiB, lie in the range, hold the
image, and overlap no other. A new layer never gets pages that the inventory has for
any other, used or not. Larger layers get several contiguous segments, A:B.

With --reuse, layers of components that no caller runs together may have the same pages.

EXIT STATUS
  0   every layer has a place
  1   there is no such plan; the reason is on standard error
  64  the command line was wrong`,
		Example: `  levelfs segment plan
  levelfs segment plan --hosts 'lnx*' --levels test --range 2000000-7FFFFFF
  levelfs segment plan --ldif | ldapmodify -H ldapi:/// -Y EXTERNAL`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSegmentPlan(cmd, o, log)
		},
	}
	cmd.Flags().StringVar(&o.hosts, "hosts", "", "only what these hosts run: a pattern such as 'lnx*' (users always count)")
	cmd.Flags().BoolVar(&o.all, "all", false, "what all hosts run (the default)")
	cmd.Flags().StringSliceVar(&o.components, "component", nil, "only layers of these components")
	cmd.Flags().StringSliceVar(&o.states, "levels", nil, "also levels in these states that nobody runs yet: draft, test, released")
	cmd.Flags().StringVar(&o.pages, "range", "", "where segments may lie, as DEFSEG takes it: BEGIN-END (default: segment-range in levelfs.toml, or "+segment.DefaultRange().String()+")")
	cmd.Flags().BoolVar(&o.reuse, "reuse", false, "let layers that no guest uses together have the same pages")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&o.ldif, "ldif", false, "print what changes in the inventory, for ldapmodify")
	return cmd
}

// A segmentReport is what segment plan prints.
type segmentReport struct {
	Range    segment.Range        `json:"range"`
	Layers   []segment.Assignment `json:"layers"`
	Skipped  []survey.Skipped     `json:"skipped,omitempty"`
	Commands []string             `json:"commands,omitempty"`
}

func runSegmentPlan(cmd *cobra.Command, o segmentPlanOptions, log *logrus.Logger) error {
	if o.hosts != "" && o.all || o.asJSON && o.ldif {
		return &usageError{"levelfs segment plan takes one of --hosts and --all, and one of --json and --ldif"}
	}
	for _, state := range o.states {
		if state != "draft" && state != "test" && state != "released" {
			return &usageError{fmt.Sprintf("--levels %q: want draft, test or released", state)}
		}
	}
	s, err := openSite("")
	if err != nil {
		return err
	}
	defer s.Close()
	pages, err := segmentRange(o.pages, s.config)
	if err != nil {
		return err
	}
	f, err := loadFleet(cmd.Context(), s)
	if err != nil {
		return err
	}
	used, err := survey.Of(cmd.Context(), f, survey.Query{Hosts: o.hosts, Components: o.components, States: o.states}, nil)
	if err != nil {
		return err
	}
	warnUnknown(used, log)
	options := segment.Options{Range: pages}
	if o.reuse {
		options.Together = used.Together
	}
	report := segmentReport{Range: pages, Skipped: used.Skipped}
	if report.Layers, err = segment.Plan(used.Layers, used.Others, options); err != nil {
		return err
	}
	if report.Layers == nil {
		report.Layers = []segment.Assignment{} // an empty list, and not null, for programs
	}
	report.Commands = segmentCommands(report.Layers, s.config)
	switch out := cmd.OutOrStdout(); {
	case o.asJSON:
		return writeJSON(out, report)
	case o.ldif:
		return writeSegmentLDIF(out, report.Layers)
	default:
		return report.write(out)
	}
}

// warnUnknown says of which callers it is not known what they run.
func warnUnknown(used *survey.Result, log *logrus.Logger) {
	const most = 10 // one mistake can be that of thousands of hosts
	for _, a := range used.Unknown[:min(most, len(used.Unknown))] {
		log.Warnf("%s: what it runs of %s is not known: %v", a.Caller, a.Component, a.Err)
	}
	if more := len(used.Unknown) - most; more > 0 {
		log.Warnf("the same of %d more", more)
	}
}

// segmentRange is the range of the flag, or else of the configuration.
func segmentRange(flag string, c *config.Config) (segment.Range, error) {
	if flag != "" {
		r, err := segment.ParseRange(flag)
		if err != nil {
			return r, &usageError{err.Error()}
		}
		return r, nil
	}
	if c.SegmentRange == "" {
		return segment.DefaultRange(), nil
	}
	r, err := segment.ParseRange(c.SegmentRange)
	if err != nil {
		return r, fmt.Errorf("%s: segment-range: %w", c.File(), err)
	}
	return r, nil
}

// loadFleet reads all of the inventory.
func loadFleet(ctx context.Context, s *site) (*fleet.Fleet, error) {
	stores, err := s.Stores()
	if err != nil {
		return nil, err
	}
	return fleet.Load(ctx, stores, nil)
}

func (r *segmentReport) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SEGMENT\tLAYER\tLEVELS\tPAGES\tMIB\tSTATUS")
	for _, a := range r.Layers {
		status := "kept"
		if a.New {
			status = "new: " + a.Why
		}
		for i, s := range a.Segments {
			name, levels := a.Layer, fewLevels(a.Levels)
			if i > 0 { // of the same device
				name, levels, status = `"`, `"`, `"`
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", s.Name, name, levels, s.Range, s.Range.Bytes()>>20, status)
		}
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "-\t%s\t-\t-\t-\tnone: %s\n", s.Layer, s.Why)
	}
	if len(r.Commands) > 0 {
		fmt.Fprintf(w, "\nTo make what is new: as root, in a guest with privilege class E, on Linux. The next\nblock only when one is done: CP does one DEFSEG or SAVESEG at a time.\n\n")
		for _, line := range r.Commands {
			fmt.Fprintln(w, line)
		}
	}
	return w.Flush()
}

// fewLevels are the levels of a layer for a table: a base may be in all.
func fewLevels(levels []string) string {
	const most = 3
	if len(levels) <= most {
		return strings.Join(levels, ",")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(levels[:most], ","), len(levels)-most)
}

// segmentCommands are the commands that make the new segments, as they can be pasted
// into a shell, one block a layer. Nothing in them needs quoting but what is quoted:
// names, pages and image locations are whitelisted.
//
// A segment is defined and saved empty first, since only a saved one can be loaded;
// then loaded exclusively, where even a read-only one can be written to; and the driver
// defines it anew, with the same pages and without LOADNSHR, when it saves it
// (arch/s390/mm/extmem.c, segment_save).
func segmentCommands(plan []segment.Assignment, c *config.Config) []string {
	var lines []string
	add := func(format string, a ...any) { lines = append(lines, fmt.Sprintf(format, a...)) }
	for _, a := range plan {
		if !a.New {
			continue
		}
		image := a.Image
		switch {
		case image == "":
			image = "IMAGE-OF-" + a.Layer
		case !filepath.IsAbs(image) && len(c.Images) > 0:
			image = filepath.Join(c.Images[0], image)
		}
		device := "/sys/devices/dcssblk/" + a.Segments[0].Name
		add("( set -e  # %s", a.Layer)
		for _, s := range a.Segments {
			add("vmcp 'DEFSEG %s %s SR LOADNSHR'", s.Name, s.Range)
			add("vmcp 'SAVESEG %s'", s.Name)
		}
		add("echo %s >/sys/devices/dcssblk/add", shellWord(a.Device()))
		add("echo 0 >'%s/shared'", device)
		add("dev=/dev/$(ls '%s/block')", device)
		add("dd if=%s of=$dev bs=1M conv=fsync", image)
		add("cmp -n %d %s $dev", a.Size, image)
		add("echo 1 >'%s/save'", device)
		add("echo %s >/sys/devices/dcssblk/remove", shellWord(a.Segments[0].Name))
		for _, s := range a.Segments {
			add("vmcp 'QUERY NSS NAME %s MAP'", s.Name)
		}
		add(")")
	}
	return lines
}

// shellWord quotes the $ and # that segments' names may have.
func shellWord(s string) string {
	if strings.ContainsAny(s, "$#") {
		return "'" + s + "'"
	}
	return s
}

// writeSegmentLDIF prints what changes as LDIF change records (RFC 2849).
func writeSegmentLDIF(out io.Writer, plan []segment.Assignment) error {
	var changes []any
	for _, a := range plan {
		if !a.New {
			continue
		}
		var ranges []string
		for _, s := range a.Segments {
			ranges = append(ranges, s.String())
		}
		m := ldap.NewModifyRequest(a.DN, nil)
		m.Replace("levelfsSegment", []string{a.Device()})
		m.Replace("levelfsRange", ranges)
		changes = append(changes, m)
	}
	if len(changes) == 0 {
		return nil
	}
	return ldif.Dump(out, 0, changes...)
}
