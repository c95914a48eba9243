package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
)

// A call is the command line, understood.
type call struct {
	spec, dir     string
	fake, verbose bool
	options       view.Options
	above         []string // names of customisation layers, topmost first
}

type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

const usage = "usage: mount.levelfs COMPONENT[@LEVEL] DIR [-sfnv] [-o OPTIONS]"

// parseArgs reads what mount(8) passes to a helper: two words, then options
// (context_mount.c, exec_helper).
func parseArgs(args []string) (*call, error) {
	if len(args) < 2 || args[1] == "" || strings.HasPrefix(args[0], "-") || strings.HasPrefix(args[1], "-") {
		return nil, usagef(usage)
	}
	c := &call{spec: args[0], dir: args[1]}
	var sloppy bool
	var options []string
	rest := args[2:]
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		letters, isOption := strings.CutPrefix(arg, "-")
		if !isOption || letters == "" {
			return nil, usagef("unexpected argument %q\n%s", arg, usage)
		}
		for letters != "" {
			letter := letters[0]
			letters = letters[1:]
			switch letter {
			case 's':
				sloppy = true
			case 'f':
				c.fake = true
			case 'n': // there is no mtab to leave alone
			case 'v':
				c.verbose = true
			case 'o', 't', 'N':
				value := letters
				if letters = ""; value == "" {
					if len(rest) == 0 {
						return nil, usagef("option -%c needs a value\n%s", letter, usage)
					}
					value, rest = rest[0], rest[1:]
				}
				switch letter {
				case 'o':
					options = append(options, strings.Split(value, ",")...)
				case 'N':
					return nil, usagef("-N is not supported: run mount in that namespace")
				}
			default:
				return nil, usagef("unknown option -%c\n%s", letter, usage)
			}
		}
	}
	var err error
	if options, c.above, err = parseAbove(options); err != nil {
		return nil, err
	}
	c.options, err = parseOptions(options, sloppy)
	return c, err
}

// parseAbove takes the option above=LAYER:LAYER out of the words after -o.
func parseAbove(words []string) (rest, above []string, err error) {
	for _, w := range words {
		list, ok := strings.CutPrefix(w, "above=")
		if !ok {
			rest = append(rest, w)
			continue
		}
		above = strings.Split(list, ":")
		for i, name := range above {
			if !ldapmap.ValidLayer(name) || slices.Contains(above[:i], name) {
				return nil, nil, usagef("option %q: want names of layers, each once, joined by colons", w)
			}
		}
	}
	return rest, above, nil
}

// parseOptions reads the words after -o. The last of contradicting ones counts,
// as with mount(8). What is unknown is refused, unless sloppy.
func parseOptions(words []string, sloppy bool) (o view.Options, err error) {
	set := func(flag string) {
		if !slices.Contains(o.Flags, flag) {
			o.Flags = append(o.Flags, flag)
		}
	}
	clear := func(flag string) {
		o.Flags = slices.DeleteFunc(o.Flags, func(f string) bool { return f == flag })
	}
	var uid, gid string
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok {
			switch name {
			case "caller":
				if !ldapmap.ValidUser(value) {
					return o, usagef("option %q: %q is no user name", w, value)
				}
				o.User = value
				continue
			case "uid":
				uid = value
				continue
			case "gid":
				gid = value
				continue
			}
		}
		switch w {
		case "", "defaults", "nodev", "async", "auto", "noauto", "nouser", "_netdev", "nofail", "silent", "loud":
		case "ro":
			o.ReadOnly = true
		case "rw":
			o.ReadOnly = false
		case "nosuid", "noexec", "nodiratime":
			set(w)
		case "noatime", "relatime", "strictatime": // one of three
			clear("noatime")
			clear("relatime")
			clear("strictatime")
			set(w)
		case "suid", "exec", "atime", "diratime":
			clear("no" + w)
		case "norelatime", "nostrictatime":
			clear(w[2:])
		case "dev":
			return o, usagef("option %q is refused: a view never has device nodes", w)
		case "remount":
			return o, usagef("a view cannot be remounted: unmount it and mount it again")
		default:
			if strings.HasPrefix(w, "x-") || strings.HasPrefix(w, "X-") || strings.HasPrefix(w, "comment=") || sloppy {
				continue
			}
			return o, usagef("unknown mount option %q", w)
		}
	}
	switch {
	case uid == "" && gid == "":
	case o.User == "" || uid == "" || gid == "":
		return o, usagef("options uid and gid are those of caller, and go together")
	default:
		a, err := account.Parse(uid, gid)
		if err != nil {
			return o, usagef("options uid and gid: %v", err)
		}
		o.Account = &a
	}
	return o, nil
}
