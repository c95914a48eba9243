package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/attached"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/usage"
	"github.com/levelfs/levelfs/mounter"
)

func newSegmentList(log *logrus.Logger) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the segments that are attached, and who uses them",
		Long: `Show each device that the driver made of segments in this guest: its node and size,
whether it is shared, read-only and can be mapped (DAX), whether levelfs attached it
("levelfs gc" may then detach it), and the views and processes that use it.

Processes are those that run or have open a file of a view, or are in one of its
directories, also where the view was unmounted lazily or in a mount namespace of
their own.

EXIT STATUS
  0   done
  1   failed; the reason is on standard error
  64  the command line was wrong`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSegmentList(cmd, asJSON, log)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A segmentStatus is one device of segment list.
type segmentStatus struct {
	Name     string   `json:"name"`
	Segments []string `json:"segments"`
	Device   string   `json:"device"`
	Size     int64    `json:"size"` // bytes
	Shared   bool     `json:"shared"`
	ReadOnly bool     `json:"readOnly"`
	DAX      bool     `json:"dax"`     // the driver can; whether a view has it is in status
	Levelfs  bool     `json:"levelfs"` // attached by levelfs
	usage.Use
}

func runSegmentList(cmd *cobra.Command, asJSON bool, log *logrus.Logger) error {
	c, err := config.Load()
	if err != nil {
		return err
	}
	segments := attached.New(c)
	devices, err := segments.List()
	if err != nil {
		return err
	}
	uses, err := usersOf(cmd.Context(), c, devices...)
	if err != nil {
		if uses == nil {
			return err
		}
		log.Warn(err)
	}
	list := make([]segmentStatus, 0, len(devices))
	for i, d := range devices {
		ours, err := segments.Ours(d)
		if err != nil {
			log.Warnf("segment %s: who attached it is not known: %v", d.Name, err)
		}
		list = append(list, segmentStatus{
			Name: d.Name, Segments: d.Segments, Device: d.Path(), Size: d.Size,
			Shared: d.Shared, ReadOnly: d.ReadOnly, DAX: d.DAX, Levelfs: ours, Use: uses[i],
		})
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), list)
	}
	return writeSegments(cmd.OutOrStdout(), list)
}

// searchTime bounds the search for processes.
const searchTime = 10 * time.Second

// usersOf finds who uses the devices. With an *usage.IncompleteError there is what was
// found until then.
func usersOf(ctx context.Context, c *config.Config, devices ...dcss.Device) ([]usage.Use, error) {
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	var search []usage.Device
	for _, d := range devices {
		search = append(search, usage.Device{Device: mounter.Device{Kind: mounter.Segment, Name: d.Name}, Major: d.Major, Minor: d.Minor})
	}
	return usage.Of(ctx, c.RunDir(), search)
}

func writeSegments(out io.Writer, list []segmentStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SEGMENT\tDEVICE\tSIZE\tMODE\tDAX\tATTACHED BY\tVIEWS\tPROCESSES")
	for _, s := range list {
		mode, dax, by := "exclusive", "no", "others"
		if s.Shared {
			mode = "shared"
		}
		if s.ReadOnly {
			mode += ",ro"
		} else {
			mode += ",rw"
		}
		if s.DAX {
			dax = "yes"
		}
		if s.Levelfs {
			by = "levelfs"
		}
		var views, pids []string
		for _, v := range s.Views {
			views = append(views, v.Target)
		}
		for _, p := range s.Processes {
			pids = append(pids, fmt.Sprint(p.PID))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", strings.Join(s.Segments, ":"), s.Device, byteCount(s.Size), mode, dax, by,
			orDash(strings.Join(views, " ")), orDash(fewOf(pids, " ")))
	}
	return w.Flush()
}

// fewOf joins some words for a table or a message: a base layer may have all processes.
func fewOf(words []string, separator string) string {
	const most = 8
	if len(words) <= most {
		return strings.Join(words, separator)
	}
	return fmt.Sprintf("%s and %d more", strings.Join(words[:most], separator), len(words)-most)
}

// An inUseError is a segment that cannot be detached, and who uses it.
type inUseError struct {
	Segment string
	Use     usage.Use
	Err     error // the driver's, or nil if it was not asked
}

func (e *inUseError) Error() string {
	var users []string
	for _, v := range e.Use.Views {
		users = append(users, fmt.Sprintf("%s is mounted at %s", v.Level, v.Target))
	}
	for _, p := range e.Use.Processes {
		users = append(users, fmt.Sprintf("process %d (%q) %s", p.PID, p.Command, p.How))
	}
	text := fmt.Sprintf("segment %s is in use", e.Segment)
	switch {
	case len(users) > 0:
		text += ": " + fewOf(users, "; ")
	case e.Err != nil:
		text += ", by whom was not found"
	}
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	return text
}

func (e *inUseError) Unwrap() error { return e.Err }

// A partError is a segment that was named where the name of its device is needed.
type partError struct {
	Segment string
	Device  dcss.Device
}

func (e *partError) Error() string {
	return fmt.Sprintf("segment %s is a part of device %s (%s)", e.Segment, e.Device.Name, strings.Join(e.Device.Segments, ":"))
}

// inspect returns the device of that name.
func inspect(s *attached.Segments, name string) (dcss.Device, error) {
	d, err := s.Inspect(name)
	if err == nil && !strings.EqualFold(d.Name, name) {
		err = &partError{Segment: strings.ToUpper(name), Device: d}
	}
	return d, err
}

// completeSegments offers the devices that are attached to the shell; those of the
// inventory, too, if it answers in a second.
func completeSegments(fromInventory bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := config.Load()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		if devices, err := attached.New(c).List(); err == nil {
			for _, d := range devices {
				names = append(names, d.Name)
			}
		}
		if fromInventory {
			names = append(names, plannedSegments()...)
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// plannedSegments are those that the inventory's layers have.
func plannedSegments() []string {
	s, err := openSite("")
	if err != nil {
		return nil
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	f, err := loadFleet(ctx, s)
	if err != nil {
		return nil
	}
	var names []string
	for _, source := range f.Sources() {
		for _, e := range source.Entries() {
			if e.Is("levelfsLayer") {
				names = append(names, e.Attrs["levelfssegment"]...)
			}
		}
	}
	return names
}

// notThere reports whether the error says that a segment is on no device.
func notThere(err error) bool {
	return errors.Is(err, dcss.ErrNotAttached) || errors.Is(err, dcss.ErrNoDriver)
}
