package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/internal/private"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

type diffOptions struct {
	user, to       string
	exitCode, json bool
}

func newDiff(log *logrus.Logger) *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff COMPONENT",
		Short: "Compare a private layer with the shared files, as they were and as they are",
		Long: `Compare each file of a private layer with the shared file that it came from and with
the one that is there now. That is the one of the level that the private layer is
under, or of another (--to): what would be stale after a switch is seen before it.

  new             there is no shared file of that name
  identical       as the shared file is now
  override        differs, and the shared file is what it was
  deleted         the shared file was deleted, and is what it was
  moot            deleted, and the shared file is gone as well
  stale           the shared file has changed, come or gone since
  type-conflict   the same, and one of the two is a directory or the like
  stale-deletion  deleted, and what is there now is another
  hides-new       a private directory hides shared files that have changed or come
  unknown         what the file came from is not known; it is said why

What a file came from is known by overlayfs's note on it and the record of levels
(origin), or by the time of its making and that record (birth), or as somebody said
(adopted). No level has to be mounted; the lists of files that lie beside the images
are used, or made from the images.

EXIT STATUS
  0   done
  1   failed; with --exit-code: something is not settled (stale and below)
  3   with --exit-code: failed, or nothing worse was found than that something is unknown
  64  the command line was wrong`,
		Example: `  levelfs diff emacs
  levelfs diff emacs --user rob --to 30.1-1 --exit-code`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := runDiff(cmd, args[0], o, log)
			var check *checkError
			var usage *usageError
			if err != nil && o.exitCode && !errors.As(err, &check) && !errors.As(err, &usage) {
				return &checkError{exitUnchecked, err}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.user, "user", "", "whose private layer (default: the host's)")
	cmd.Flags().StringVar(&o.to, "to", "", "the level to compare with (default: the one that the private layer is under)")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "say by the exit status whether something is stale")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func runDiff(cmd *cobra.Command, component string, o diffOptions, log *logrus.Logger) error {
	p, inv, err := openPrivate(cmd.Context(), component, o.user, log)
	if err != nil {
		return err
	}
	defer inv.Close()
	now := p.Now()
	if o.to != "" {
		if now, err = otherLevel(cmd.Context(), p, inv, o.to); err != nil {
			return err
		}
	}
	w := newDiffWriter(cmd.OutOrStdout(), p, now, o.json)
	err = p.Diff(cmd.Context(), now, w.write)
	if err := errors.Join(err, w.close(err == nil)); err != nil || !o.exitCode {
		return err
	}
	unsettled := 0
	for verdict, n := range w.counts {
		if !verdict.Settled() {
			unsettled += n
		}
	}
	switch {
	case unsettled == 0:
		return nil
	case unsettled == w.counts[diff.Unknown]:
		return &checkError{status: exitUnchecked}
	}
	return &checkError{status: exitFailed}
}

// otherLevel looks up the level to compare with.
func otherLevel(ctx context.Context, p *private.Layer, inv *inventory.Inventory, to string) (mounter.Base, error) {
	name := to
	if !strings.Contains(name, "@") {
		name = p.Component + "@" + name
	}
	key, err := ldapmap.ParseKey(name)
	if err != nil || key.Component != p.Component || key.Level == "" {
		return mounter.Base{}, &usageError{fmt.Sprintf("--to %q: want a level of %s", to, p.Component)}
	}
	c, err := config.Load()
	if err != nil {
		return mounter.Base{}, err
	}
	host, err := c.Hostname()
	if err != nil {
		return mounter.Base{}, err
	}
	ctx, cancel := lookupContext(ctx)
	defer cancel()
	r, err := inv.Resolve(ctx, ldapmap.Query{Key: key, Host: host, User: p.User, Customized: true})
	if err != nil {
		return mounter.Base{}, err
	}
	p.Learn(r.Layers)
	p.Learn(r.Above)
	return private.Base(r), nil
}

// openPrivate opens the private layer of a component, with what this machine's cache and
// the inventory say of the layers that it was over. Without an inventory that answers, what
// is known here has to do.
func openPrivate(ctx context.Context, component, user string, log *logrus.Logger) (*private.Layer, *inventory.Inventory, error) {
	key, err := ldapmap.ParseKey(component)
	if err != nil || key.Level != "" {
		return nil, nil, &usageError{fmt.Sprintf("%q: want a component; a level of its own has no private layer", component)}
	}
	if user != "" && !ldapmap.ValidUser(user) {
		return nil, nil, &usageError{fmt.Sprintf("%q is no user name", user)}
	}
	c, err := config.Load()
	if err != nil {
		return nil, nil, err
	}
	p, err := private.Open(c, key.Component, user)
	if err != nil {
		return nil, nil, err
	}
	inv, err := inventory.Open(c)
	if err != nil {
		return nil, nil, err
	}
	learnBases(ctx, inv, p, log)
	return p, inv, nil
}

// learnBases asks the cache, and for what is not there the inventory, where the files of
// the levels are that the private layer was under. What neither knows stays unknown.
func learnBases(ctx context.Context, inv *inventory.Inventory, p *private.Layer, log *logrus.Logger) {
	var missing []string
	p.Recall()
	for _, b := range p.Bases {
		if !p.Knows(b) {
			for _, l := range b.Layers {
				missing = append(missing, l.Name)
			}
		}
	}
	if len(missing) > 0 {
		ctx, cancel := lookupContext(ctx)
		defer cancel()
		layers, err := inv.Layers(ctx, missing)
		if err != nil {
			log.Warnf("layers of former levels: %v", err)
		}
		p.Learn(layers)
	}
}

// A diffWriter prints findings as they come: there can be any number.
type diffWriter struct {
	out    io.Writer
	json   bool
	counts map[diff.Verdict]int
	total  int
}

func newDiffWriter(out io.Writer, p *private.Layer, now mounter.Base, asJSON bool) *diffWriter {
	w := &diffWriter{out: out, json: asJSON, counts: make(map[diff.Verdict]int)}
	if asJSON {
		head, _ := json.Marshal(struct { // strings only: nothing that could fail
			Private string `json:"private"`
			User    string `json:"user,omitempty"`
			Level   string `json:"level"`
		}{p.Dir, p.User, now.Level})
		fmt.Fprintf(out, "%s,\"findings\":[", strings.TrimSuffix(string(head), "}"))
	}
	return w
}

func (w *diffWriter) write(f *diff.Finding) error {
	w.counts[f.Verdict]++
	w.total++
	if w.json {
		text, err := json.Marshal(f)
		if err != nil {
			return err
		}
		comma := ","
		if w.total == 1 {
			comma = ""
		}
		_, err = fmt.Fprintf(w.out, "%s\n%s", comma, text)
		return err
	}
	_, err := fmt.Fprintf(w.out, "%-14s  %s%s\n", f.Verdict, plainPath(f.Path), explain(f))
	return err
}

// close ends the output. JSON that lacks its end is for nobody to take for the whole.
func (w *diffWriter) close(whole bool) error {
	if !whole {
		return nil
	}
	if w.json {
		counts, err := json.Marshal(w.counts)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w.out, "\n],\"counts\":%s}\n", counts)
		return err
	}
	return nil
}

// plainPath quotes a path that would be more than one word of one line.
func plainPath(path string) string {
	if quoted := fmt.Sprintf("%q", path); strings.Trim(quoted, `"`) != path || strings.ContainsAny(path, " \t") {
		return quoted
	}
	return path
}

// explain is the rest of the line about a finding.
func explain(f *diff.Finding) string {
	var parts []string
	if len(f.Differs) > 0 {
		parts = append(parts, "differs in "+strings.Join(f.Differs, ", "))
	}
	if !f.Verdict.Settled() && f.Base != nil {
		text := fmt.Sprintf("%s %s -> %s %s", f.Base.Level, sharedName(f.Base), f.Now.Level, sharedName(f.Now))
		if len(f.Changed) > 0 {
			text += " (" + strings.Join(f.Changed, ", ") + ")"
		}
		parts = append(parts, text, "known by "+string(f.By))
	}
	if f.Hidden > 0 {
		parts = append(parts, fmt.Sprintf("hides %d, such as %s", f.Hidden, plainPath(f.HiddenPaths[0])))
	}
	if f.Why != "" {
		parts = append(parts, f.Why)
	}
	if len(parts) == 0 {
		return ""
	}
	return "\t" + strings.Join(parts, "; ")
}

// sharedName is a shared file in a line: its digest's first digits, its type, or "-".
func sharedName(s *diff.Shared) string {
	if s.Digest != "" {
		return strings.TrimPrefix(s.Digest, "sha256:")[:12]
	}
	return orDash(string(s.Type))
}
