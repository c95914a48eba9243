package ldapmap

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestUnknown: every name in the schema file is known, and nothing else that looks like one.
func TestUnknown(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../packaging/schema/levelfs.schema")
	if err != nil {
		t.Fatal(err)
	}
	e := Entry{Attrs: map[string][]string{"cn": {"x"}, "objectclass": {"device", "LevelFSCaller"}}}
	names := regexp.MustCompile(`(?m)^(attributetype|objectclass) .* NAME '(levelfs\w+)'`).FindAllSubmatch(text, -1)
	if len(names) < 40 {
		t.Fatalf("%d names in the schema", len(names))
	}
	for _, n := range names {
		if name := string(n[2]); string(n[1]) == "objectclass" {
			e.Attrs["objectclass"] = append(e.Attrs["objectclass"], name)
		} else {
			e.Attrs[name] = []string{"x"}
		}
	}
	if got := e.Unknown(); len(got) > 0 {
		t.Errorf("of the schema, and unknown: %q", got)
	}
	e.Attrs["levelfsassignement"], e.Attrs["levelfsassignment;x"] = []string{"x"}, []string{"x"}
	e.Attrs["objectclass"] = append(e.Attrs["objectclass"], "levelfsCallers", "levelfsAssignment", "levelfscallers")
	if got, want := e.Unknown(), []string{"levelfsassignement", "levelfsassignment", "levelfsassignment;x", "levelfscallers"}; !slices.Equal(got, want) {
		t.Errorf("unknown are %q, want %q", got, want)
	}
}
