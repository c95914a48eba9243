package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/ldapmap"
)

// Completion asks the inventory only for what is wanted, and offers nothing without an
// answer in a second.

// named are the names of entries of a class that begin with the prefix.
func named(class, prefix string) ([]string, cobra.ShellCompDirective) {
	s, err := openSite("")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var names []string
	for _, source := range s.Sources {
		entries, err := source.Search(ctx, []ldapmap.Term{{
			{{Attr: "objectClass", Value: class}}, {{Attr: "cn", Op: ldapmap.Prefix, Value: prefix}},
		}}, []string{"cn"})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		for _, e := range entries {
			names = append(names, e.First("cn"))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
}

// completeKeys offers components, and after an @ the component's levels.
func completeKeys(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if strings.Contains(toComplete, "@") {
		return named("levelfsLevel", toComplete)
	}
	return completeComponents(cmd, args, toComplete)
}

// completePrivate offers components, and then files: who is in the view sees their paths.
func completePrivate(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return completeComponents(cmd, args, toComplete)
}

// completeProfiles offers the profiles, and after one, components and their levels.
func completeProfiles(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 || cmd.Name() == "include" || cmd.Name() == "exclude" {
		return named("levelfsProfile", toComplete)
	}
	return completeAssignment(cmd, toComplete)
}

// completeAssign offers callers, and then components and their levels.
func completeAssign(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return completeAssignment(cmd, toComplete)
	}
	if name, ok := strings.CutPrefix(toComplete, "profile:"); ok {
		names, directive := named("levelfsProfile", name)
		for i := range names {
			names[i] = "profile:" + names[i]
		}
		return names, directive
	}
	return []string{"host:", "user:", "group:", "profile:", "default"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeAssignment offers COMPONENT=LEVEL, or only components to a verb that takes
// no levels.
func completeAssignment(cmd *cobra.Command, toComplete string) ([]string, cobra.ShellCompDirective) {
	component, level, ok := strings.Cut(toComplete, "=")
	if !ok {
		names, directive := completeComponents(cmd, nil, toComplete)
		if cmd.Name() == "assign" || cmd.Name() == "set" {
			for i := range names {
				names[i] += "="
			}
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return names, directive
	}
	names, directive := named("levelfsLevel", component+"@"+level)
	for i, name := range names {
		names[i] = strings.Replace(name, "@", "=", 1)
	}
	return names, directive
}
