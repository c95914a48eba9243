package main

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/view"
)

func TestParseArgs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		args string // separated by blanks
		want call
	}{
		{"emacs /sw/emacs", call{}},
		{"emacs@29.4-1 /sw/emacs -n -o rw", call{spec: "emacs@29.4-1"}}, // as automount does
		{"emacs /sw/emacs -sfnv", call{fake: true, verbose: true}},
		{"emacs /sw/emacs -s -f -n -v", call{fake: true, verbose: true}},
		{"emacs /sw/emacs -f", call{fake: true}},
		{"emacs /sw/emacs -vo ro", call{verbose: true, options: view.Options{ReadOnly: true}}},
		{"emacs /sw/emacs -oro,nosuid", call{options: view.Options{ReadOnly: true, Flags: []string{"nosuid"}}}},
		{"emacs /sw/emacs -o ro,nosuid", call{options: view.Options{ReadOnly: true, Flags: []string{"nosuid"}}}},
		{"emacs /sw/emacs -o ro -o rw", call{}},
		{"emacs /sw/emacs -o rw -o ro", call{options: view.Options{ReadOnly: true}}},
		{"emacs /sw/emacs -o ro -v -o nosuid", call{verbose: true, options: view.Options{ReadOnly: true, Flags: []string{"nosuid"}}}},
		{"emacs /sw/emacs -t levelfs.sub", call{}},
		{"emacs /sw/emacs -tlevelfs -f", call{fake: true}},
		{"emacs /sw/emacs -o whatever -s", call{}}, // -s counts wherever it stands
		{"emacs /sw/emacs -so whatever", call{}},
		{long + " /sw/emacs", call{spec: long}}, // judged later, as a key
	} {
		t.Run(c.args[:min(len(c.args), 40)], func(t *testing.T) {
			t.Parallel()
			if c.want.spec == "" {
				c.want.spec = "emacs"
			}
			c.want.dir = "/sw/emacs"
			got, err := parseArgs(strings.Fields(c.args))
			if err != nil {
				t.Fatal(err)
			}
			if got.spec != c.want.spec || got.dir != c.want.dir || got.fake != c.want.fake || got.verbose != c.want.verbose ||
				got.options.ReadOnly != c.want.options.ReadOnly || !slices.Equal(got.options.Flags, c.want.options.Flags) {
				t.Errorf("got %+v, want %+v", *got, c.want)
			}
		})
	}
}

func TestParseArgsRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "usage: "},
		{[]string{"emacs"}, "usage: "},
		{[]string{"-f", "emacs", "/sw/emacs"}, "usage: "},
		{[]string{"emacs", "-f", "/sw/emacs"}, "usage: "},
		{[]string{"emacs", "/sw/emacs", "more"}, `unexpected argument "more"`},
		{[]string{"emacs", "/sw/emacs", "-"}, `unexpected argument "-"`},
		{[]string{"emacs", "/sw/emacs", ""}, `unexpected argument ""`},
		{[]string{"emacs", "/sw/emacs", "--"}, "unknown option --"},
		{[]string{"emacs", "/sw/emacs", "--help"}, "unknown option --"},
		{[]string{"emacs", "/sw/emacs", "-fx"}, "unknown option -x"},
		{[]string{"emacs", "/sw/emacs", "-o"}, "option -o needs a value"},
		{[]string{"emacs", "/sw/emacs", "-fo"}, "option -o needs a value"},
		{[]string{"emacs", "/sw/emacs", "-t"}, "option -t needs a value"},
		{[]string{"emacs", "/sw/emacs", "-N"}, "option -N needs a value"},
		{[]string{"emacs", "/sw/emacs", "-N", "/proc/1/ns/mnt"}, "-N is not supported"},
		{[]string{"emacs", "/sw/emacs", "-o", "lowerdir=/etc"}, `unknown mount option "lowerdir=/etc"`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			_, err := parseArgs(c.args)
			var usage *usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestParseOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words    string
		readOnly bool
		flags    string
	}{
		{"", false, ""},
		{"rw", false, ""},
		{"ro", true, ""},
		{"ro,rw", false, ""},
		{"rw,ro", true, ""},
		{"defaults,nodev,async,auto,noauto,nouser,_netdev,nofail,silent,loud", false, ""},
		{"nosuid,noexec", false, "nosuid,noexec"},
		{"nosuid,nosuid", false, "nosuid"},
		{"nosuid,suid", false, ""},
		{"suid,nosuid", false, "nosuid"},
		{"noexec,exec,nosuid", false, "nosuid"},
		{"noatime,nodiratime", false, "noatime,nodiratime"},
		{"noatime,atime", false, ""},
		{"nodiratime,diratime", false, ""},
		{"relatime,norelatime", false, ""},
		{"strictatime,nostrictatime", false, ""},
		{"x-systemd.automount,X-mount.mkdir,x-,comment=some words,ro", true, ""},
		// When to change access times is one choice of three (MOUNT_ATTR__ATIME).
		{"noatime,strictatime", false, "strictatime"},
		{"strictatime,noatime", false, "noatime"},
		{"relatime,noatime", false, "noatime"},
		{"noatime,relatime", false, "relatime"},
	} {
		t.Run(c.words, func(t *testing.T) {
			t.Parallel()
			o, err := parseOptions(strings.Split(c.words, ","), false)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(o.Flags, ","); o.ReadOnly != c.readOnly || got != c.flags || o.User != "" {
				t.Errorf("read-only %v, flags %q, user %q; want %v, %q", o.ReadOnly, got, o.User, c.readOnly, c.flags)
			}
		})
	}
}

func TestParseCaller(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]view.Options{
		"caller=rob":                      {User: "rob"},
		"caller=ann,caller=rob":           {User: "rob"},
		"caller=rob,uid=1001,gid=100":     {User: "rob", Account: &account.Account{UID: 1001, GID: 100}},
		"gid=0,uid=4294967294,caller=rob": {User: "rob", Account: &account.Account{UID: 4294967294}},
	} {
		o, err := parseOptions(strings.Split(words, ","), false)
		if err != nil || !reflect.DeepEqual(o, want) {
			t.Errorf("%s: %+v, %v", words, o, err)
		}
	}
	for _, words := range []string{
		"caller=rob,uid=1001", "caller=rob,gid=100", "caller=rob,uid=,gid=100", "caller=rob,uid=-1,gid=100",
		"caller=rob,uid=4294967295,gid=100", "caller=rob,uid=1001,gid=4294967296", "caller=rob,uid=root,gid=100", "uid=1001,gid=100",
	} {
		var usage *usageError
		if o, err := parseOptions(strings.Split(words, ","), true); !errors.As(err, &usage) {
			t.Errorf("%s: %+v, %v", words, o, err)
		}
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		word, want string
		evenSloppy bool
	}{
		{"whatever", `unknown mount option "whatever"`, false},
		{"upperdir=/etc", `unknown mount option "upperdir=/etc"`, false},
		{"RO", `unknown mount option "RO"`, false},
		{" ro", `unknown mount option " ro"`, false},
		{"ro=1", `unknown mount option "ro=1"`, false},
		{"user=rob", `unknown mount option "user=rob"`, false},
		{"caller=", `option "caller=": "" is no user name`, true},
		{"caller=../host", `"../host" is no user name`, true},
		{"caller=a/b", `is no user name`, true},
		{"uid=1001", "are those of caller", true},
		{"gid=100", "are those of caller", true},
		{"dev", `option "dev" is refused`, true},
		{"remount", "cannot be remounted", true},
	} {
		t.Run(c.word, func(t *testing.T) {
			t.Parallel()
			words := []string{"nosuid", c.word, "ro"}
			_, err := parseOptions(words, false)
			var usage *usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			o, err := parseOptions(words, true)
			if refused := err != nil; refused != c.evenSloppy {
				t.Errorf("sloppy: %v", err)
			}
			if err == nil && (!o.ReadOnly || !slices.Equal(o.Flags, []string{"nosuid"})) {
				t.Errorf("sloppy: the other options have become %+v", o)
			}
		})
	}
}

func FuzzParseArgs(f *testing.F) {
	f.Add("emacs\x00/sw/emacs\x00-sfnv\x00-o\x00ro,nosuid")
	f.Add("emacs\x00/sw/emacs\x00-oro\x00-t")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parseArgs(strings.Split(line, "\x00"))
		if err != nil {
			var usage *usageError
			if !errors.As(err, &usage) {
				t.Errorf("%v is no usage error", err)
			}
			return
		}
		for _, flag := range c.options.Flags {
			if !slices.Contains([]string{"nosuid", "noexec", "noatime", "nodiratime", "relatime", "strictatime"}, flag) {
				t.Errorf("flag %q got through", flag)
			}
		}
	})
}
