package main

import (
	"errors"
	"fmt"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/private"
)

type resetOptions struct {
	user string
	dry  bool
	json bool
}

func newReset(log *logrus.Logger) *cobra.Command {
	var o resetOptions
	cmd := &cobra.Command{
		Use:   "reset COMPONENT PATH...",
		Short: "Take private files out of the way, so that the shared ones are seen again",
		Long: `Take files, or directories with all in them, out of a private layer. PATH is relative
to the root of the view. Nothing is deleted: they go to a new directory below
/var/lib/levelfs/backup, with a note of what they are, and are printed with their new
place.

No view may use the private layer meanwhile: what an overlay uses must not be changed
underneath it, and through the view a file could only be deleted, which hides the
shared one, too. Unmount the view before.

EXIT STATUS
  0   done
  1   failed; the reason is on standard error, and what was moved is printed
  64  the command line was wrong`,
		Example: `  levelfs reset emacs etc/site-start.el --dry-run
  levelfs reset emacs --user rob share/info`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completePrivate,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, inv, err := openPrivate(cmd.Context(), args[0], o.user, log)
			if err != nil {
				return err
			}
			defer inv.Close()
			moved, err := p.Reset(cmd.Context(), args[1:], o.dry)
			return errors.Join(pathUsage(err), writeMoved(cmd, moved, o.json))
		},
	}
	cmd.Flags().StringVar(&o.user, "user", "", "whose private layer (default: the host's)")
	cmd.Flags().BoolVar(&o.dry, "dry-run", false, "say what would be moved, and do nothing")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func writeMoved(cmd *cobra.Command, moved []private.Moved, asJSON bool) error {
	if asJSON {
		if moved == nil {
			moved = []private.Moved{}
		}
		return writeJSON(cmd.OutOrStdout(), moved)
	}
	for _, m := range moved {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s -> %s\n", plainPath(m.Path), plainPath(m.Backup)); err != nil {
			return err
		}
	}
	return nil
}

// pathUsage is the error as one of the command line, if it is about a path on it.
func pathUsage(err error) error {
	var path *private.PathError
	if errors.As(err, &path) {
		return &usageError{path.Error()}
	}
	return err
}

type adoptOptions struct {
	user, as, to string
	json         bool
}

func newAdopt(log *logrus.Logger) *cobra.Command {
	var o adoptOptions
	cmd := &cobra.Command{
		Use:   "adopt COMPONENT PATH --as mine|theirs|merge",
		Short: "Settle a private file whose shared file has changed",
		Long: `Settle what "levelfs diff" reports as stale:

  mine    the private file stays, and the shared one of the present level counts as
          what it came from; a view may be mounted. With --to it is the shared one of
          that level: for before a switch
  theirs  the same as "levelfs reset"
  merge   what has changed in the shared file is brought into the private one, by
          git merge-file(1); the private file as it was goes to the backup. With
          conflicts, or without the images of both levels, nothing is changed.

EXIT STATUS
  0   done
  1   failed, and nothing was changed; the reason is on standard error
  64  the command line was wrong`,
		Example: `  levelfs adopt emacs etc/site-start.el --as merge
  levelfs adopt emacs etc/site-start.el --as mine --to 30.1-1`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completePrivate,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAdopt(cmd, args[0], args[1], o, log)
		},
	}
	cmd.Flags().StringVar(&o.user, "user", "", "whose private layer (default: the host's)")
	cmd.Flags().StringVar(&o.as, "as", "", "mine, theirs or merge")
	cmd.Flags().StringVar(&o.to, "to", "", "with --as mine: the level whose file it is settled for (default: the present one)")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runAdopt(cmd *cobra.Command, component, path string, o adoptOptions, log *logrus.Logger) error {
	if o.as != "mine" && o.as != "theirs" && o.as != "merge" {
		return &usageError{fmt.Sprintf("--as %q: want mine, theirs or merge", o.as)}
	}
	if o.to != "" && o.as != "mine" {
		return &usageError{"--to is for --as mine"}
	}
	p, inv, err := openPrivate(cmd.Context(), component, o.user, log)
	if err != nil {
		return err
	}
	defer inv.Close()
	var moved []private.Moved
	switch o.as {
	case "mine":
		level := p.Now()
		if o.to != "" {
			if level, err = otherLevel(cmd.Context(), p, inv, o.to); err != nil {
				return err
			}
		}
		err = p.Mine(cmd.Context(), path, level)
	case "theirs":
		moved, err = p.Reset(cmd.Context(), []string{path}, false)
	case "merge":
		var one private.Moved
		if one, err = p.Merge(cmd.Context(), path); one.Path != "" {
			moved = append(moved, one)
		}
	}
	return errors.Join(pathUsage(err), writeMoved(cmd, moved, o.json))
}
