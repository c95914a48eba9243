package testenv

import (
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldif"
)

const schemaDir = "../../packaging/schema"

// definitions are the attribute types and object classes of a schema by kind
// and name, as tokens: macros expanded, white space outside quotes gone.
type definitions map[string][]string

func (d definitions) add(kind, text string, macros map[string]string) error {
	tokens, err := tokenize(text)
	if err != nil {
		return err
	}
	if len(tokens) < 5 || tokens[0] != "(" || tokens[2] != "NAME" || tokens[len(tokens)-1] != ")" {
		return fmt.Errorf("not a definition: %q", text)
	}
	if tokens[1], err = expand(tokens[1], macros); err != nil {
		return err
	}
	key := kind + " " + strings.Trim(tokens[3], "'")
	if _, twice := d[key]; twice {
		return fmt.Errorf("%s is defined twice", key)
	}
	d[key] = tokens
	return nil
}

// define takes in "name oid", where oid may use an earlier macro.
func define(macros map[string]string, text string) error {
	f := strings.Fields(text)
	if len(f) != 2 {
		return fmt.Errorf("not an object identifier: %q", text)
	}
	oid, err := expand(f[1], macros)
	if err != nil {
		return err
	}
	macros[f[0]] = oid
	return nil
}

// expand turns "macro:1" into the OID it stands for.
func expand(oid string, macros map[string]string) (string, error) {
	if oid[0] >= '0' && oid[0] <= '9' {
		return oid, nil
	}
	name, suffix, found := strings.Cut(oid, ":")
	base, ok := macros[name]
	if !ok {
		return "", fmt.Errorf("unknown macro in %q", oid)
	}
	if found {
		base += "." + suffix
	}
	return base, nil
}

// tokenize splits a definition; a quoted string is one token, as it stands.
func tokenize(text string) ([]string, error) {
	token := regexp.MustCompile(`^(?:'[^']*'|[()$]|[^\s'()$]+)`)
	var tokens []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		t := token.FindString(text)
		if t == "" {
			return nil, fmt.Errorf("cannot read %q", text)
		}
		tokens = append(tokens, t)
		text = text[len(t):]
	}
	return tokens, nil
}

// parseSchema reads slapd.conf syntax.
func parseSchema(text string) (definitions, error) {
	var directives []string
	for line := range strings.Lines(text) {
		switch line = strings.TrimRight(line, "\n"); {
		case line == "" || line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if len(directives) == 0 {
				return nil, fmt.Errorf("%q continues nothing", line)
			}
			directives[len(directives)-1] += " " + strings.TrimSpace(line)
		default:
			directives = append(directives, line)
		}
	}
	defs, macros := definitions{}, map[string]string{}
	for _, d := range directives {
		kind, rest, _ := strings.Cut(d, " ")
		var err error
		switch kind {
		case "objectidentifier":
			err = define(macros, rest)
		case "attributetype", "objectclass":
			err = defs.add(kind, rest, macros)
		default:
			err = fmt.Errorf("unknown directive %q", d)
		}
		if err != nil {
			return nil, err
		}
	}
	return defs, nil
}

// An ldifSyntax is how a server writes a schema as an LDIF entry.
type ldifSyntax struct{ dn, macros, attributes, classes string }

var (
	olcSyntax = ldifSyntax{"cn=levelfs,cn=schema,cn=config", "olcObjectIdentifier", "olcAttributeTypes", "olcObjectClasses"}
	// RFC 4512, 4.2, as 389 Directory Server has it in files; there are no macros.
	subschemaSyntax = ldifSyntax{"cn=schema", "", "attributeTypes", "objectClasses"}
)

// parse reads a file of one entry.
func (s ldifSyntax) parse(text string) (definitions, error) {
	l, err := ldif.Parse(text)
	if err != nil {
		return nil, err
	}
	if len(l.Entries) != 1 || l.Entries[0].Entry == nil {
		return nil, fmt.Errorf("%d records, want one entry", len(l.Entries))
	}
	entry := l.Entries[0].Entry
	if entry.DN != s.dn {
		return nil, fmt.Errorf("dn is %q, want %q", entry.DN, s.dn)
	}
	defs, macros := definitions{}, map[string]string{}
	for _, v := range entry.GetAttributeValues(s.macros) {
		if err := define(macros, v); err != nil {
			return nil, err
		}
	}
	for _, a := range []struct{ attr, kind string }{
		{s.attributes, "attributetype"},
		{s.classes, "objectclass"},
	} {
		for _, v := range entry.GetAttributeValues(a.attr) {
			if err := defs.add(a.kind, v, macros); err != nil {
				return nil, err
			}
		}
	}
	return defs, nil
}

// differences lists where a and b do not say the same.
func differences(a, b definitions) []string {
	var diffs []string
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if !slices.Equal(a[key], b[key]) {
			diffs = append(diffs, fmt.Sprintf("%s:\n\t%q\n\t%q", key, a[key], b[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[key]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s:\n\tmissing\n\t%q", key, b[key]))
		}
	}
	return diffs
}

func readSchemaFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(schemaDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSchemaFilesAgree compares levelfs.schema with the two LDIF files.
func TestSchemaFilesAgree(t *testing.T) {
	schema, err := parseSchema(readSchemaFile(t, "levelfs.schema"))
	if err != nil {
		t.Fatal("levelfs.schema: ", err)
	}
	if got, want := len(schema), 29+7+6; got != want {
		t.Errorf("%d definitions, want %d", got, want)
	}
	for file, syntax := range map[string]ldifSyntax{"levelfs.ldif": olcSyntax, "98levelfs.ldif": subschemaSyntax} {
		t.Run(file, func(t *testing.T) {
			text := readSchemaFile(t, file)
			got, err := syntax.parse(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range differences(schema, got) {
				t.Error("it differs from levelfs.schema in ", d)
			}
			seesChanges(t, schema, text, syntax)
		})
	}
}

// seesChanges checks that the comparison sees every single change of the text:
// it makes each possible one.
func seesChanges(t *testing.T, schema definitions, text string, syntax ldifSyntax) {
	t.Helper()
	changes := 0
	for _, target := range []*regexp.Regexp{
		regexp.MustCompile(`DESC '.`),
		regexp.MustCompile(`\( (levelfs(Attr|Class):|2\.25\.)\d`),
		regexp.MustCompile(`NAME '`),
		regexp.MustCompile(`SYNTAX 1\.3\.6\.1\.4\.1\.1466\.115\.121\.1\.\d`),
		regexp.MustCompile(`(EQUALITY|SUBSTR|ORDERING) \w+`),
		regexp.MustCompile(`olcObjectIdentifier: \S+ \S+`),
	} {
		for _, at := range target.FindAllStringIndex(text, -1) {
			changes++
			// The OIDs get a digit more, strings and names a letter.
			changed := text[:at[1]] + "9" + text[at[1]:]
			got, err := syntax.parse(changed)
			if err == nil && len(differences(schema, got)) == 0 {
				t.Errorf("a change after %q is not seen", text[at[0]:at[1]])
			}
		}
	}
	for _, flag := range []string{" SINGLE-VALUE", " AUXILIARY", " $ levelfsHistory"} {
		changes++
		got, err := syntax.parse(strings.Replace(text, flag, "", 1))
		if !strings.Contains(text, flag) || err == nil && len(differences(schema, got)) == 0 {
			t.Errorf("the loss of %q is not seen", flag)
		}
	}
	if changes < 30*3 {
		t.Errorf("tried only %d changes", changes)
	}
}

// TestSchemaOIDs checks that the OIDs are different ones, described, and below
// the arc of the UUID that the files name.
func TestSchemaOIDs(t *testing.T) {
	text := readSchemaFile(t, "levelfs.schema")
	uuid := regexp.MustCompile(`UUID ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})`).FindStringSubmatch(text)
	if uuid == nil {
		t.Fatal("levelfs.schema does not name its UUID")
	}
	n, _ := new(big.Int).SetString(strings.ReplaceAll(uuid[1], "-", ""), 16)
	arc := "2.25." + n.String() + "."

	defs, err := parseSchema(text)
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]string{}
	for key, tokens := range defs {
		oid := tokens[1]
		if !strings.HasPrefix(oid, arc) {
			t.Errorf("%s: OID %s is not below %s", key, oid, arc)
		}
		if other, taken := users[oid]; taken {
			t.Errorf("%s and %s share OID %s", key, other, oid)
		}
		users[oid] = key
		if tokens[4] != "DESC" || len(tokens[5]) < len("'described'") {
			t.Errorf("%s has no DESC", key)
		}
	}
	for _, name := range []string{"levelfs.ldif", "98levelfs.ldif", "README.md"} {
		if text := readSchemaFile(t, name); !strings.Contains(text, uuid[1]) || !strings.Contains(text, n.String()) {
			t.Errorf("%s does not name the UUID %s and its arc", name, uuid[1])
		}
	}
}

// TestSchemaLoadsFromSlapdConf has slapd itself read levelfs.schema; that
// levelfs.ldif loads is shown by each test that starts a Slapd.
func TestSchemaLoadsFromSlapdConf(t *testing.T) {
	Require(t, "slapd")
	slaptest, err := lookPath("slaptest")
	if err != nil {
		t.Fatal(err)
	}
	distribution, ok := firstWith("core.schema", "/etc/ldap/schema", "/etc/openldap/schema")
	if !ok {
		t.Fatal("no OpenLDAP schema directory with core.schema")
	}
	text := readSchemaFile(t, "levelfs.schema")
	check := func(schema string) ([]byte, error) {
		dir := t.TempDir()
		file, conf := filepath.Join(dir, "levelfs.schema"), filepath.Join(dir, "slapd.conf")
		if err := os.WriteFile(file, []byte(schema), 0o600); err != nil {
			t.Fatal(err)
		}
		lines := fmt.Sprintf("include %s/core.schema\ninclude %s\n", distribution, file)
		if err := os.WriteFile(conf, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.CommandContext(t.Context(), slaptest, "-u", "-f", conf).CombinedOutput()
	}
	if out, err := check(text); err != nil {
		t.Errorf("slaptest refuses levelfs.schema: %v\n%s", err, out)
	}
	broken := strings.Replace(text, "MUST ( cn $ levelfsLayerRef )", "MUST ( cn $ levelfsNoSuch )", 1)
	if out, err := check(broken); err == nil {
		t.Errorf("slaptest takes a class with an unknown attribute:\n%s", out)
	}
}

// TestDocumentedIndices checks that the test slapd has the indices that docs/servers.md
// asks for, and no other.
func TestDocumentedIndices(t *testing.T) {
	text, err := os.ReadFile("../../docs/servers.md")
	if err != nil {
		t.Fatal(err)
	}
	section, _, _ := strings.Cut(string(text), "### A replica")
	line := regexp.MustCompile(`(?m)^ *(olcDbIndex: .*)$`)
	var documented, configured []string
	for _, m := range line.FindAllStringSubmatch(section, -1) {
		documented = append(documented, m[1])
	}
	Require(t, "slapd")
	config, err := slapdConfig{dir: "/nosuch", schemaDir: schemaDir}.ldif()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range line.FindAllStringSubmatch(config, -1) {
		configured = append(configured, m[1])
	}
	if len(documented) == 0 || !slices.Equal(documented, configured) {
		t.Errorf("docs/servers.md asks for\n%q\nthe test server has\n%q", documented, configured)
	}
}
