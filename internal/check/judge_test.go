package check

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/mounter"
)

func settings(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.LoadFrom(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// healthyState has one view with a layer in a segment.
func healthyState(t *testing.T) *State {
	c := settings(t)
	who := Asker{Component: "emacs"}
	return &State{
		Config: c, Now: time.Now(), PrivateBytes: -1,
		Views: []View{{Asker: who, Readable: true, Proof: &mounter.Proof{Files: 3, Active: 3}, View: mounter.View{
			ID: 2, Parent: 1, Target: "/sw/emacs", Name: "emacs@1", Layers: []string{"base@0123456789ab+segment.EMACS_1"},
			Upper: filepath.Join(c.PrivateDir(), "host/emacs/upper"), Options: []string{"rw", "nodev", "index=off", "redirect_dir=nofollow"},
		}}},
		Attached: []string{"EMACS#1"}, Segments: []string{"EMACS#1"},
		Wants: []Want{{Asker: who, Level: "emacs@1", Layers: []mounter.Layer{
			{Name: "base", FSType: "erofs", XIP: mounter.XIPAuto, Devices: []mounter.Device{{Kind: mounter.Segment, Name: "EMACS#1"}}}}}},
		Defaults: map[string]string{"index": "on", "metacopy": "off"},
	}
}

// TestJudge: what cannot be made for real without z/VM or pmem, or only by breaking the
// machine.
func TestJudge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *State)
		want   string // codes
		text   string // in the first finding
	}{
		"healthy": {func(*State) {}, "", ""},
		"mapped in part": {func(s *State) { s.Views[0].Proof.Active = 1; s.Views[0].Proof.Reason = "inline tails" },
			"LV213", "execution in place is partial (1 of 3 files: inline tails)"},
		"required and off": {func(s *State) { s.Views[0].Proof.Active = 0; s.Wants[0].Layers[0].XIP = mounter.XIPRequire },
			"LV212", "is off"},
		"mounted before the segment was there": {func(s *State) {
			s.Views[0].Layers, s.Views[0].Proof = []string{"base@0123456789ab"}, nil
		}, "LV213 LV220", "could be executed from segment EMACS#1"},
		"mounted before others attached the segment": {func(s *State) {
			s.Views[0].Layers, s.Views[0].Proof, s.Segments = []string{"base@0123456789ab"}, nil, nil
		}, "LV213", "could be executed from segment EMACS#1"},
		"segment that may not exist": {func(s *State) {
			s.Views[0].Layers, s.Views[0].Proof, s.Segments, s.Attached = []string{"base@0123456789ab"}, nil, nil, nil
		}, "", ""},
		"segment in another combination": {func(s *State) {
			s.Views[0].Layers, s.Views[0].Proof, s.Segments, s.Attached = []string{"base@0123456789ab"}, nil, nil, []string{"EMACS#1:EMACS#2"}
		}, "", ""},
		"the second of two segments": {func(s *State) {
			s.Views[0].Layers, s.Views[0].Proof, s.Segments, s.Attached = []string{"base@0123456789ab"}, nil, nil, []string{"A:B"}
			s.Wants[0].Layers[0].Devices = append(s.Wants[0].Layers[0].Devices, mounter.Device{Kind: mounter.Segment, Name: "A:B"})
		}, "LV213", "could be executed from segment A:B"},
		"required and from the file": {func(s *State) {
			s.Views[0].Layers, s.Views[0].Proof = []string{"base@0123456789ab"}, nil
			s.Segments, s.Wants[0].Layers[0].XIP = nil, mounter.XIPRequire
		}, "LV212", "mounted from its image file"},
		"not wanted": {func(s *State) {
			s.Views[0].Layers, s.Views[0].Proof, s.Segments = []string{"base@0123456789ab"}, nil, nil
			s.Wants[0].Layers[0].XIP = mounter.XIPOff
		}, "", ""},
		"no writes":                 {func(s *State) { s.NoWrites = []string{"/var"} }, "LV234", "it is read-only"},
		"unused segment":            {func(s *State) { s.Segments = append(s.Segments, "OLD") }, "LV220", "segment OLD"},
		"module parameter in force": {func(s *State) { s.Views[0].Options = []string{"nodev"} }, "LV204", "index=on"},
		"volatile":                  {func(s *State) { s.Views[0].Options = append(s.Views[0].Options, "volatile") }, "LV204", "volatile"},
		"hung":                      {func(s *State) { s.Hung = []Process{{PID: 42, Age: time.Minute}} }, "LV264", "for 1m0s"},
		"of another user": {func(s *State) {
			s.Perms = []Perm{{Path: "/etc/x", What: PermConfig, Mode: 0o644, Owner: 7, Self: 0}}
		}, "LV250", "owner uid 7"},
		"a name that forges a line": {func(s *State) {
			s.Mounts = []Mount{{Target: s.Config.Tree + "/x\ncritical LV999 y\x1b[2J", FSType: "tmpfs", Source: "none"}}
		}, "LV203", "none (tmpfs) is mounted in the tree"},
		"in use": {func(s *State) {
			s.Wants[0].Level, s.Views[0].Holders = "emacs@2", []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
		}, "LV201", "in use by process 1, 2, 3, 4, 5, 6, 7, 8 and 2 more"},
		"customised otherwise": {func(s *State) {
			s.Wants[0].Above = []string{"conf@0123456789ab", "site@dir"}
		}, "LV201", "emacs@1 is wanted and mounted, but customised otherwise: above it conf@0123456789ab, site@dir are wanted, and nothing is mounted since an unknown time"},
		"customised": {func(s *State) {
			s.Wants[0].Above = []string{"conf@0123456789ab"}
			s.Views[0].Layers = append([]string{"conf@0123456789ab~host+pmem.pmem0"}, s.Views[0].Layers...)
		}, "", ""},
		"not customised any more": {func(s *State) {
			s.Views[0].Layers = append([]string{"conf@0123456789ab~host"}, s.Views[0].Layers...)
		}, "LV201", "above it nothing is wanted, and conf@0123456789ab is mounted"},
		"refused": {func(s *State) { s.Wants[0].Err, s.Wants[0].Level = errors.Join(errors.New("a"), errors.New("b")), "" }, "LV202", "a; b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := healthyState(t)
			c.change(s)
			findings := Judge(s)
			var codes []string
			for _, f := range findings {
				codes = append(codes, string(f.Code))
				if f.Severity == "" || f.Object == "" || f.Fix == "" || strings.ContainsAny(f.Text+f.Object+f.Fix, "\n\x1b") {
					t.Errorf("incomplete: %+v", f)
				}
			}
			if got := strings.Join(codes, " "); got != c.want || len(findings) > 0 && !strings.Contains(findings[0].Text, c.text) {
				t.Errorf("found %+v, want %s with %q", findings, c.want, c.text)
			}
		})
	}
}

// TestOverlayDefaults: what overlayfs does not show is what its module parameters say.
func TestOverlayDefaults(t *testing.T) {
	t.Parallel()
	if got, err := overlayDefaults(filepath.Join(t.TempDir(), "none")); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, c := range []struct{ dir, follow, want string }{{"Y", "Y", "on"}, {"N", "Y", "follow"}, {"N", "N", "nofollow"}} {
		dir := t.TempDir()
		for name, text := range map[string]string{"redirect_dir": c.dir, "redirect_always_follow": c.follow, "index": "Y", "metacopy": "N", "nfs_export": "N", "xino_auto": "N"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := overlayDefaults(dir)
		if err != nil || got["redirect_dir"] != c.want || got["index"] != "on" || got["metacopy"] != "off" {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}

// TestProbe: what never returns is given up, and what says why it ended is heard.
func TestProbe(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	defer close(never)
	var slow *SlowError
	if _, err := Try(t.Context(), 10*time.Millisecond, func(context.Context) (int, error) { <-never; return 1, nil }); !errors.As(err, &slow) {
		t.Errorf("%v", err)
	}
	why := errors.New("why")
	if _, err := Try(t.Context(), 10*time.Millisecond, func(ctx context.Context) (int, error) { <-ctx.Done(); return 1, why }); err != why {
		t.Errorf("%v", err)
	}
	if got, err := Try(t.Context(), time.Minute, func(context.Context) (int, error) { return 7, nil }); got != 7 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// TestDeep: a pass that is interrupted goes on where it was, and not from the start.
func TestDeep(t *testing.T) {
	t.Parallel()
	c := settings(t)
	c.CheckRate.Bytes = 1 << 40
	dir := t.TempDir()
	content := make([]byte, 3*deepChunk+5)
	for i := range content {
		content[i] = byte(i >> 8)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	layer := mounter.Layer{Name: "a", FSType: "erofs", Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content)), Dir: dir, Path: "a"}
	images := []Image{{Layer: layer, Level: "a@1"}}

	ctx, cancel := context.WithCancel(t.Context())
	_, err := Deep(ctx, c, images, func(read, _ int64) {
		if read == 2*deepChunk {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	var first int64 = -1
	findings, err := Deep(t.Context(), c, images, func(read, total int64) {
		if first < 0 {
			first = read
		}
		if total != layer.Size || read > total {
			t.Errorf("progress %d of %d", read, total)
		}
	})
	if err != nil || len(findings) > 0 || first != 2*deepChunk {
		t.Errorf("resumed at %d: %v, %v", first, findings, err)
	}
	if _, err := os.Stat(passFile(c)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a whole pass leaves its state: %v", err)
	}

	content[len(content)-1]++
	if err := os.WriteFile(filepath.Join(dir, "a"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	findings, err = Deep(t.Context(), c, images, nil)
	if err != nil || len(findings) != 1 || findings[0].Code != finding.OtherImage || !strings.Contains(findings[0].Text, "digest is") {
		t.Errorf("changed: %v, %v", findings, err)
	}
}

// TestPace: reading keeps to its rate.
func TestPace(t *testing.T) {
	t.Parallel()
	p := pace{rate: 1 << 20}
	start := time.Now()
	for range 3 {
		if err := p.wait(t.Context(), 100<<10); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 190*time.Millisecond {
		t.Errorf("300 KiB at 1 MiB/s were begun within %v", took)
	}
}

// TestNagios: one line, whatever is in the texts.
func TestNagios(t *testing.T) {
	t.Parallel()
	r := &Report{Views: 2, Findings: []finding.Finding{finding.New(finding.StackedViews, "", "/sw/a|b", "one\ntwo", "x")}}
	if got := r.Nagios(); !regexp.MustCompile(`^LEVELFS CRITICAL - 2 views, 1 critical: LV207 /sw/a/b: one; two \| views=2;;;0( [a-z_]+=[0-9.]+[sB]?;;;0)+\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
	r.Unchecked = []Unchecked{{What: "inventory", Why: "down"}}
	if got := r.Nagios(); !strings.HasPrefix(got, "LEVELFS UNKNOWN - 2 views, 1 critical, 1 not checked: inventory: down |") {
		t.Errorf("%q", got)
	}
}

// TestPrometheus: every line is one of the text format (v0.0.4), and every sample has its
// family before it.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	r := &Report{Views: 2, PrivateBytes: -1, Seconds: 0.25, Started: time.Unix(1e9, 0),
		Findings: []finding.Finding{finding.New(finding.StackedViews, "", "x", "y", "z"), finding.New(finding.Loop, "", "x", "y", "z")}}
	text := string(r.Prometheus())
	comment := regexp.MustCompile(`^# (HELP [a-z_]+ .+|TYPE [a-z_]+ gauge)$`)
	sample := regexp.MustCompile(`^([a-z_]+)(\{[a-z]+="[^"\\]*"(,[a-z]+="[^"\\]*")*\})? [0-9.]+$`)
	family := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "# TYPE ") {
			family = strings.Fields(line)[2]
		}
		if m := sample.FindStringSubmatch(line); !comment.MatchString(line) && (m == nil || m[1] != family) {
			t.Errorf("line %q of family %q", line, family)
		}
	}
	for _, line := range []string{`levelfs_check_findings{code="LV207",severity="critical"} 1`, `levelfs_check_findings{code="LV121",severity="critical"} 1`,
		"levelfs_check_timestamp_seconds 1000000000", "levelfs_check_duration_seconds 0.25", "levelfs_check_status 2"} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
	if strings.Contains(text, "private_bytes") {
		t.Error("a size that is not known has a value")
	}
	if got := escape("a\\b\"c\nd"); got != `a\\b\"c\nd` {
		t.Errorf("%q", got)
	}
	r.PrivateBytes = 5
	file := filepath.Join(t.TempDir(), "levelfs.prom")
	if err := r.WritePrometheus(file); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || !strings.Contains(string(got), "levelfs_private_bytes 5\n") {
		t.Errorf("%q, %v", got, err)
	}
}
