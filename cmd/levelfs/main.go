//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command levelfs is the administrator's view of levelfs: what would be mounted
// and why, what is mounted, the making of layers, and the software inventory.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/hook"
)

// Exit status of every verb.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 64 // EX_USAGE of sysexits.h

	exitUnchecked = 3 // of verbs that check: they could not
)

func main() {
	if exit, ok := dcss.Writer(os.Args); ok {
		os.Exit(exit)
	}
	switch args := os.Args[1:]; {
	case os.Args[0] == workerName:
		os.Exit(work(args))
	case mayHang(args):
		os.Exit(attend(args))
	default:
		os.Exit(run(args, os.Stdin, os.Stdout, os.Stderr))
	}
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), hook.Endings()...)
	defer stop()
	log := logrus.New()
	log.SetOutput(stderr)
	log.SetLevel(logrus.WarnLevel)

	var understood bool // the command line is right: what fails from here on is the work
	root := &cobra.Command{
		Use:   "levelfs",
		Short: "Software levels: stored, loaded and upgraded once, private to everybody",
		Long: `levelfs shows and prepares what automount, auto.levelfs and mount.levelfs do.

EXIT STATUS
  0   done
  1   failed; the reason is on standard error
  64  the command line was wrong`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.ValidateFlagGroups(); err != nil {
				return err
			}
			if err := nothingEmpty(cmd); err != nil {
				return err
			}
			understood = true
			if verbose, _ := cmd.Flags().GetBool("verbose"); verbose {
				log.SetLevel(logrus.DebugLevel)
			}
			return nil
		},
	}
	root.PersistentFlags().BoolP("verbose", "v", false, "say more on standard error")
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(newPlan(), newStatus(log), newMap(log), newSegment(log), newLint(), newWho(),
		newSwitch(log), newRefresh(log), newRollback(log), newHistory(), newGC(),
		newDiff(log), newReset(log), newAdopt(log), newCheck(log), newDoctor(), newRun(args, log), newReport(), newRollout(), newWatch(log))
	root.AddCommand(newRepair(log))
	for _, verb := range changeVerbs(doChange) {
		switch verb.Name() {
		case "level":
			addLevelReads(verb)
		case "layer":
			addLayerBuilds(verb, log)
		case "profile":
			addProfileReads(verb)
		}
		root.AddCommand(verb)
	}
	// cobra's own prints its help for a shell that it does not know, and succeeds.
	root.InitDefaultCompletionCmd()
	for _, verb := range root.Commands() {
		if verb.Name() == "completion" {
			verb.RunE = needsVerb
		}
	}

	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	failed := exitFailed
	var check *checkError
	if errors.As(err, &check) {
		if failed = check.status; check.err == nil {
			return failed
		}
	}
	fmt.Fprintf(stderr, "levelfs: error: %v\n", err)
	var usage *usageError
	if !understood || errors.As(err, &usage) {
		fmt.Fprintln(stderr, "levelfs: hint: levelfs --help lists the verbs, levelfs VERB --help their options")
		return exitUsage
	}
	if hint := hintFor(err); hint != "" && !errors.Is(err, context.Canceled) {
		for line := range strings.SplitSeq(hint, "\n") {
			fmt.Fprintf(stderr, "levelfs: hint: %s\n", line)
		}
	}
	return failed
}

// A checkError is the exit status of a verb that checks, or runs a command. What a check
// has found is on standard output by then, and there is nothing to be said about it on
// standard error.
type checkError struct {
	status int
	err    error // why it could not check
}

func (e *checkError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("findings: exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *checkError) Unwrap() error { return e.err }

// A usageError is a command line that cobra lets through.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// nothingEmpty refuses options with nothing as their value: --user "$WHO" with a variable
// that is not set would be about the host, and --to "$LEVEL" about the level that is assigned.
func nothingEmpty(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && f.Value.String() == "" {
			err = errors.Join(err, fmt.Errorf("--%s: the value is empty", f.Name))
		}
	})
	return err
}

// needsVerb is what a verb of verbs does when none is given.
func needsVerb(cmd *cobra.Command, _ []string) error {
	return &usageError{fmt.Sprintf("%q needs one of its verbs", cmd.CommandPath())}
}

// release is set when packages are built (-X main.release=…).
var release string

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
