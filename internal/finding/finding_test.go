package finding

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

//go:generate go test -run TestDocument -update .

var update = flag.Bool("update", false, "write docs/findings.md")

const document = "../../docs/findings.md"

// TestDocument: docs/findings.md says what the table says.
func TestDocument(t *testing.T) {
	want := render()
	if *update {
		if err := os.WriteFile(document, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what go generate ./internal/finding writes", document)
	}
}

func render() []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, `# Findings

What `+"`levelfs lint`"+` finds in an inventory (LV1xx) and `+"`levelfs check`"+` on a machine (LV2xx), by
code. A code keeps its meaning for ever. Critical: an
access fails or shows wrong content, now or at the next mount. Warning: it does not, but
somebody did not mean it so. This page is made from the program's own table by
`+"`go generate ./internal/finding`"+`.

The last column is how far `+"`levelfs repair`"+` goes: what is `+"`safe`"+` it mends without a question;
`+"`ask`"+`: after a question on a terminal, or with `+"`--yes`"+`; `+"`manual`"+`: not at all. A single finding may
allow less than its kind.

| code | severity | finding | repair |
|---|---|---|---|
`)
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s | %s |\n", k.Code, strings.ToLower(string(k.Code)), k.Severity, k.Title, k.Code.Mending().Repair)
	}
	for _, k := range Kinds() {
		m := k.Code.Mending()
		fmt.Fprintf(&b, "\n## %s\n\n**%s** (%s). %s\n\n*What to do:* %s\n\n*levelfs repair* (%s): %s\n",
			k.Code, k.Title, k.Severity, k.Meaning, k.Remedy, m.Repair, m.Does)
	}
	return b.Bytes()
}

// TestKinds: every code of the source is in the table, once and in order, with all that
// is to be said of it.
func TestKinds(t *testing.T) {
	source, err := os.ReadFile("kinds.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared, registered []Code
	for _, m := range regexp.MustCompile(`Code = "(LV\d+)"`).FindAllSubmatch(source, -1) {
		declared = append(declared, Code(m[1]))
	}
	for _, k := range Kinds() {
		registered = append(registered, k.Code)
		if k.Title == "" || !strings.HasSuffix(k.Meaning, ".") || !strings.HasSuffix(k.Remedy, ".") ||
			k.Severity != Warning && k.Severity != Critical {
			t.Errorf("incomplete: %+v", k)
		}
		if m := k.Code.Mending(); !strings.HasSuffix(m.Does, ".") || m.Code != k.Code {
			t.Errorf("nothing says what repair does about %s: %+v", k.Code, m)
		}
	}
	mended := mendings()
	for _, m := range mended {
		if !slices.Contains(registered, m.Code) || m.Repair != Safe && m.Repair != Ask && m.Repair != Manual {
			t.Errorf("%+v", m)
		}
	}
	if !slices.IsSortedFunc(mended, func(a, b Mending) int { return strings.Compare(string(a.Code), string(b.Code)) }) {
		t.Error("the mendings are not in the order of their codes")
	}
	if !slices.Equal(declared, registered) || !slices.IsSorted(registered) || len(slices.Compact(slices.Clone(registered))) != len(registered) {
		t.Errorf("declared %q, registered %q", declared, registered)
	}
}

func TestStatus(t *testing.T) {
	warning, critical := New(NoSeal, "s", "o", "t", "f"), New(Loop, "s", "o", "t", "f")
	if warning.Severity != Warning || critical.Severity != Critical {
		t.Errorf("%+v, %+v", warning, critical)
	}
	for want, findings := range [][]Finding{{}, {warning}, {warning, critical, warning}} {
		if got := Status(findings); got != want {
			t.Errorf("%v: %d, want %d", findings, got, want)
		}
	}
	findings := []Finding{warning, critical}
	if Sort(findings); findings[0] != critical {
		t.Errorf("%+v", findings)
	}
}
