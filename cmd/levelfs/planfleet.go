package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mattn/go-shellwords"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

// runPlanFleet is the dry run for everybody: which level of a component each caller
// runs, or with changes that could be made, what each of them would run after them.
func runPlanFleet(cmd *cobra.Command, component string, o planOptions) error {
	if _, err := parseComponents([]string{component}); err != nil {
		return err
	}
	var wanted []edit.Intention
	var terms []ldapmap.Term
	for _, text := range o.changes {
		intention, err := parseChange(cmd, text)
		if err != nil {
			return err
		}
		wanted = append(wanted, intention)
		terms = append(terms, intention.Terms()...)
	}
	all, err := loadWhole(cmd, terms, nil)
	if err != nil {
		return err
	}
	defer all.close()
	// A component that one of the changes makes is none yet.
	if len(wanted) == 0 {
		if err := all.check(ldapmap.Key{Component: component}); err != nil {
			return err
		}
		answers, err := all.whoWithProgress(cmd, component)
		if err != nil {
			return err
		}
		if o.json {
			return writeJSON(cmd.OutOrStdout(), summarize(answers))
		}
		return writeSummary(cmd.OutOrStdout(), summarize(answers))
	}
	p, err := lookWithProgress(cmd, all.Inventory, wanted)
	if err != nil {
		return err
	}
	if !slices.Contains(p.After.Components(), component) {
		return &ldapmap.NotFoundError{What: "component", Name: component}
	}
	p.Changes = slices.DeleteFunc(p.Changes, func(c fleet.Change) bool { return c.After.Component != component })
	r := newChangeReport(p)
	r.DryRun = true
	if o.json {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	most := mostCallers
	if o.all {
		most = len(r.Callers)
	}
	return r.write(cmd.OutOrStdout(), most)
}

// parseChange reads a change as it would be typed: "assign group:g emacs=30.1-1". The
// verbs themselves read it, and do nothing.
func parseChange(parent *cobra.Command, text string) (edit.Intention, error) {
	refuse := func(err error) error { return &usageError{fmt.Sprintf("--if %q: %v", text, err)} }
	parser := shellwords.NewParser()
	words, err := parser.Parse(text)
	if err != nil {
		return nil, refuse(err)
	}
	if parser.Position >= 0 {
		return nil, refuse(errors.New("one change without ; & | < >"))
	}
	if len(words) > 0 && words[0] == "levelfs" {
		words = words[1:]
	}
	var found edit.Intention
	root := &cobra.Command{Use: "levelfs", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(changeVerbs(func(_ *cobra.Command, wanted edit.Intention, _ changeOptions) error {
		found = wanted
		return nil
	})...)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetArgs(append([]string{}, words...))
	root.SetIn(strings.NewReader(""))
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	if err := root.ExecuteContext(parent.Context()); err != nil {
		return nil, refuse(err)
	}
	if found == nil {
		return nil, refuse(errors.New("no change"))
	}
	return found, nil
}
