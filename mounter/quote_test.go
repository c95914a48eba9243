package mounter

import (
	"os/exec"
	"strings"
	"testing"
)

// words are what quoting has to keep whole.
var words = []string{
	"", "plain", "/var/lib/levelfs/private", "two words", "tab\there", "new\nline", `it's`, `'`, `''`, `"double"`,
	"$HOME", "${x}", "`id`", "$(id)", `back\slash`, `\`, "a;b", "a&b", "a|b", "<>", "*", "?", "[a]", "~", "#x", "!", "-n",
	"é", "\x01", "a=b,c=d", "lowerdir+=/x@y", "sha256:0", "{a,b}", "a\rb", "%s", "^",
}

// TestQuote asks a real shell what it makes of the quoted words.
func TestQuote(t *testing.T) {
	t.Parallel()
	for _, w := range words {
		out, err := exec.Command("sh", "-c", "printf '%s.' "+quote(w)).Output()
		if err != nil || string(out) != w+"." {
			t.Errorf("quote(%q) = %s: the shell reads %q, %v", w, quote(w), out, err)
		}
	}
	for _, plain := range []string{"/var/lib/levelfs", "ro,nodev", "lowerdir+=/run/a@b:c"} {
		if got := quote(plain); got != plain {
			t.Errorf("quote(%q) = %s: needs none", plain, got)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, w := range words {
		f.Add(w)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// What a POSIX shell does with a word of bare text, '…' and \': no
		// process for each of them.
		q := quote(s)
		if strings.Contains(q, "\x00") {
			return // no argument can hold it
		}
		var b strings.Builder
		quoted := false
		for i := 0; i < len(q); i++ {
			switch {
			case q[i] == '\'':
				quoted = !quoted
			case !quoted && q[i] == '\\':
				i++
				b.WriteByte(q[i])
			case !quoted && strings.IndexByte(" \t\n\"$`;&|<>()*?[]{}~#!%^", q[i]) >= 0:
				t.Fatalf("quote(%q) = %s: bare %q", s, q, q[i])
			default:
				b.WriteByte(q[i])
			}
		}
		if quoted || b.String() != s || q == "" {
			t.Fatalf("quote(%q) = %s, which is %q", s, q, b.String())
		}
	})
}

func TestUnescape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                    "",
		"plain":               "plain",
		`\040`:                " ",
		`a\040b`:              "a b",
		`a\054b\134c`:         `a,b\c`,
		`\011\012`:            "\t\n",
		`\134040`:             `\040`,
		`\`:                   `\`,
		`\04`:                 `\04`,
		`x\04`:                `x\04`,
		`\099`:                `\099`,
		`\777`:                `\777`,
		`\+12`:                `\+12`,
		`\351\303`:            "\xe9\xc3",
		`upperdir=/a\072b:/c`: "upperdir=/a:b:/c",
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add(`a\040b`, "a b")
	f.Fuzz(func(t *testing.T, raw, clear string) {
		unescape(raw) // must not panic
		var b strings.Builder
		for i := range len(clear) { // as mangle() of fs/seq_file.c does
			if c := clear[i]; strings.IndexByte(" \t\n\\,", c) >= 0 {
				b.WriteString(`\` + string([]byte{'0' + c>>6, '0' + c>>3&7, '0' + c&7}))
			} else {
				b.WriteByte(c)
			}
		}
		if got := unescape(b.String()); got != clear {
			t.Errorf("unescape(%q) = %q, want %q", b.String(), got, clear)
		}
	})
}
