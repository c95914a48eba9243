package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/attached"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/internal/segment/survey"
	"github.com/levelfs/levelfs/internal/usage"
)

type segmentRetireOptions struct{ force, dryRun, json bool }

func newSegmentRetire(log *logrus.Logger) *cobra.Command {
	var o segmentRetireOptions
	cmd := &cobra.Command{
		Use:   "retire NAME",
		Short: "Detach a segment for good, and say what is left to do",
		Long: `Take a segment out of use in this guest: see that no view is mounted from it, that no
process uses it, and that nobody in the inventory runs a level with a layer in it;
detach it; and print what is left to do in the inventory and at CP.

With --force it is detached although the inventory has callers for it, which then use
the layer's image file, or attach it again. In use on this machine it is never
detached. A segment that is not attached here is only looked up.

EXIT STATUS
  0   it is not attached any more
  1   failed, or it is in use; the reason is on standard error
  64  the command line was wrong`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSegments(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSegmentRetire(cmd, args[0], o, log)
		},
	}
	cmd.Flags().BoolVar(&o.force, "force", false, "even if the inventory has callers for it, or cannot be asked")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only say what would be done")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// A retireReport is what segment retire prints.
type retireReport struct {
	Segments   []string      `json:"segments"`
	Device     string        `json:"device,omitempty"` // empty: it was not attached
	Use        usage.Use     `json:"use"`
	References []segmentUser `json:"references"` // by the inventory
	DryRun     bool          `json:"dryRun"`
	Detached   bool          `json:"detached"` // in a dry run, would be
	Commands   []string      `json:"commands"` // left to do at CP
}

// A segmentUser is a layer that the inventory has in a segment.
type segmentUser struct {
	Layer  string   `json:"layer"`
	DN     string   `json:"dn"`
	Levels []string `json:"levels"` // that somebody runs
}

// A referredError is a segment whose layers are in levels that somebody runs.
type referredError struct {
	Segment string
	Users   []segmentUser
}

func (e *referredError) Error() string {
	var users []string
	for _, u := range e.Users {
		users = append(users, fmt.Sprintf("layer %s of %s", u.Layer, fewLevels(u.Levels)))
	}
	return fmt.Sprintf("segment %s is used by what the inventory has callers for: %s", e.Segment, fewOf(users, "; "))
}

func runSegmentRetire(cmd *cobra.Command, device string, o segmentRetireOptions, log *logrus.Logger) error {
	names, err := parseSegments(device)
	if err != nil {
		return err
	}
	if len(names) > 1 {
		return &usageError{fmt.Sprintf("a device is retired by the name of its first segment: %s", names[0])}
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	report := retireReport{
		Segments: names, DryRun: o.dryRun, References: []segmentUser{},
		Use: usage.Use{Views: []usage.View{}, Processes: []usage.Process{}},
	}
	d, err := inspect(attached.New(c), names[0])
	attachedHere := err == nil
	if err != nil && !notThere(err) {
		return err
	}
	if attachedHere {
		report.Device, report.Segments = d.Path(), d.Segments
		uses, err := usersOf(cmd.Context(), c, d)
		if err != nil {
			if uses == nil {
				return err
			}
			log.Warn(err)
		}
		report.Use = uses[0]
	}
	layers, err := layersIn(cmd.Context(), report.Segments, log)
	if err != nil {
		if !o.force {
			return fmt.Errorf("who needs the segment is not known: %w", err)
		}
		log.Warnf("who needs the segment is not known: %v", err)
	}
	for _, l := range layers {
		report.References = append(report.References, segmentUser{Layer: l.Name, DN: l.DN, Levels: append([]string{}, l.Levels...)})
		for _, names := range l.Devices { // all of one that is not attached here
			if !attachedHere && names[0] == report.Segments[0] {
				report.Segments = names
			}
		}
	}
	for _, name := range report.Segments {
		report.Commands = append(report.Commands, fmt.Sprintf("vmcp 'PURGE NSS NAME %s'", name))
	}
	err = report.refuse(o.force)
	if err == nil && attachedHere {
		if !o.dryRun {
			err = detach(cmd, c, d.Name)
		}
		report.Detached = err == nil
	}
	var writeErr error
	if o.json {
		writeErr = writeJSON(cmd.OutOrStdout(), report)
	} else if err == nil {
		writeErr = report.write(cmd.OutOrStdout())
	}
	return errors.Join(err, writeErr)
}

// refuse says who stands in the way.
func (r *retireReport) refuse(force bool) error {
	var errs []error
	if r.Use.Any() {
		errs = append(errs, &inUseError{Segment: r.Segments[0], Use: r.Use})
	}
	running := slices.DeleteFunc(slices.Clone(r.References), func(u segmentUser) bool { return len(u.Levels) == 0 })
	if len(running) > 0 && !force {
		errs = append(errs, &referredError{Segment: r.Segments[0], Users: running})
	}
	return errors.Join(errs...)
}

func (r *retireReport) write(out io.Writer) error {
	var b strings.Builder
	name := strings.Join(r.Segments, ":")
	switch {
	case r.Device == "":
		fmt.Fprintf(&b, "segment %s is not attached here\n", name)
	case r.DryRun:
		fmt.Fprintf(&b, "segment %s (%s) would be detached\n", name, r.Device)
	default:
		fmt.Fprintf(&b, "segment %s (%s) is detached\n", name, r.Device)
	}
	if len(r.References) > 0 {
		b.WriteString("\nLeft to do in the inventory, lest a mount attaches it again: remove its levelfsSegment\nand levelfsRange from\n\n")
		for _, u := range r.References {
			fmt.Fprintf(&b, "%s\n", u.DN)
		}
	}
	b.WriteString("\nLeft to do at CP, in a guest with privilege class E, when no guest needs it any more:\n\n")
	for _, command := range r.Commands {
		fmt.Fprintln(&b, command)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// layersIn are the inventory's layers that are in one of the segments, with the levels
// of them that somebody runs.
func layersIn(ctx context.Context, segments []string, log *logrus.Logger) ([]segment.Layer, error) {
	s, err := openSite("")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	f, err := loadFleet(ctx, s)
	if err != nil {
		return nil, err
	}
	used, err := survey.Of(ctx, f, survey.Query{}, nil)
	if err != nil {
		return nil, err
	}
	warnUnknown(used, log)
	return slices.DeleteFunc(slices.Concat(used.Layers, used.Others), func(l segment.Layer) bool {
		return !slices.ContainsFunc(l.Devices, func(names []string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(segments, name) })
		})
	}), nil
}
