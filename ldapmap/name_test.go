package ldapmap

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// documented is the regular expression of ParseKey's comment, which docs and the
// map's contract repeat.
var documented = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._+~-]{0,63})?$`)

func TestParseKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", maxName)
	for _, c := range []struct {
		key  string
		want Key
		ok   bool
	}{
		{"emacs", Key{Component: "emacs"}, true},
		{"7zip", Key{Component: "7zip"}, true},
		{"emacs@29.4-1", Key{Component: "emacs", Level: "29.4-1"}, true},
		{"gtk+-3.0_x", Key{Component: "gtk+-3.0_x"}, true},
		{"jdk@21~ea+1", Key{Component: "jdk", Level: "21~ea+1"}, true},
		{long, Key{Component: long}, true},
		{long + "@" + long, Key{Component: long, Level: long}, true},
		{key: ""},
		{key: "@"},
		{key: "emacs@"},
		{key: "@29.4-1"},
		{key: "emacs@1@2"},
		{key: long + "a"},
		{key: "emacs@" + long + "a"},
		{key: "em~acs"}, // a tilde only in levels
		{key: "*"},      // automount's wildcard lookup
		{key: "&"},      // map substitution
		{key: "$HOME"},
		{key: "."},
		{key: ".."},
		{key: "../emacs"},
		{key: "/"},
		{key: "/emacs"},
		{key: "emacs/bin"},
		{key: "emacs@../29"},
		{key: "-fstype"},
		{key: "+auto.master"},
		{key: "emacs@-1"},
		{key: "em acs"},
		{key: " emacs"},
		{key: "emacs\n"},
		{key: "emacs\n@1"},
		{key: "emacs@1\n"},
		{key: "emacs\x00"},
		{key: "émacs"},
		{key: "emacs,suid"},
		{key: "emacs@1,suid"},
		{key: `emacs\040`},
		{key: "emacs)(cn=*"},
		{key: "emacs=1"},
		{key: "emacs:1"},
		{key: "\xff"},
	} {
		t.Run(c.key, func(t *testing.T) {
			t.Parallel()
			got, err := ParseKey(c.key)
			if c.ok {
				if err != nil || got != c.want || got.String() != c.key {
					t.Errorf("got %+v (%s), %v; want %+v", got, got, err, c.want)
				}
				return
			}
			var bad *KeyError
			if !errors.As(err, &bad) || bad.Key != c.key || got != (Key{}) {
				t.Errorf("got %+v, %v; want a *KeyError", got, err)
			}
		})
	}
}

// TestKeyErrorIsShort checks that a hostile key does not flood the log that
// automount writes it to, and does not break its lines.
func TestKeyErrorIsShort(t *testing.T) {
	t.Parallel()
	_, err := ParseKey(strings.Repeat("\n", 1<<16))
	if text := err.Error(); len(text) > 300 || strings.Contains(text, "\n") {
		t.Errorf("got %d bytes: %.100q", len(text), text)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{"", "emacs", "emacs@29.4-1", "a@b@c", "emacs\n", "@", "em~acs", "a@b~c",
		strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("x", 64) + "@" + strings.Repeat("y", 65)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, err := ParseKey(s)
		if want := documented.MatchString(s); want != (err == nil) {
			t.Fatalf("%q: error %v, but the documented expression matches: %v", s, err, want)
		}
		if err == nil && key.String() != s {
			t.Fatalf("%q came back as %q", s, key)
		}
	})
}

func TestValidPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path string
		ok   bool
	}{
		{"emacs.erofs", true},
		{"/srv/levelfs/emacs-29.4_1+x@y~z.erofs", true},
		{"a/b/c", true},
		{"...", true},
		{"..a/b", true},
		{strings.Repeat("a", 1024), true},
		{strings.Repeat("a", 1025), false},
		{"", false},
		{"/", false},
		{".", false}, // not below the directory it is relative to
		{"..", false},
		{"../a", false},
		{"a/../b", false},
		{"/..", false},
		{"a//b", false},
		{"a/", false},
		{"./a", false},
		{"a b", false},
		{"a,b", false},
		{"a:b", false},
		{`a\b`, false},
		{"a\nb", false},
		{"a\x00", false},
		{"é", false},
		{"$HOME", false},
		{"a=b", false},
	} {
		if got := validPath(c.path); got != c.ok {
			t.Errorf("%.40q: %v, want %v", c.path, got, c.ok)
		}
	}
}

func TestValidHost(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	for _, c := range []struct {
		host string
		ok   bool
	}{
		{"lnx01", true},
		{"lnx01.example.org", true},
		{"LNX_01.example.org", true},
		{"1.2.3.4", true},
		{label + "." + label + "." + label + "." + label[:61], true},
		{label + "." + label + "." + label + "." + label[:62], false}, // 254 bytes
		{label + "a", false},
		{"", false},
		{".", false},
		{"lnx01.", false},
		{"lnx01..org", false},
		{"-lnx01", false},
		{"lnx01/..", false},
		{"lnx01*", false},
		{"(none)", false}, // the kernel's, before anybody set one
		{"lnx 01", false},
		{"lnx01\n", false},
	} {
		if got := ValidHost(c.host); got != c.ok {
			t.Errorf("%.40q: %v, want %v", c.host, got, c.ok)
		}
	}
}
