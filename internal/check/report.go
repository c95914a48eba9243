package check

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/sharing"
	"github.com/levelfs/levelfs/mounter"
)

// Exit states of a check, as of Nagios plugins.
const (
	OK       = 0
	Warning  = 1
	Critical = 2
	Unknown  = 3
)

// A Report is what a run came to.
type Report struct {
	Findings     []finding.Finding `json:"findings"`
	Unchecked    []Unchecked       `json:"unchecked"`
	Views        int               `json:"views"`
	OtherLevel   int               `json:"otherLevel"` // of them, those of which another level is wanted
	PrivateBytes int64             `json:"privateBytes"`
	LayerBytes   int64             `json:"layerBytes"` // in the image files that were looked at
	Shares       []ViewShare       `json:"shares"`     // of the views
	Total        sharing.Share     `json:"total"`      // of all views: sharedBytes is what sharing saves
	Started      time.Time         `json:"started"`
	Seconds      float64           `json:"seconds"`
}

// A ViewShare is what a view takes of the disk.
type ViewShare struct {
	Target       string `json:"target"`
	Level        string `json:"level"`
	PrivateBytes int64  `json:"privateBytes"` // -1: not asked for, or not known
	sharing.Share
}

// shares are those of the views, as far as the definitions of their layers are known.
func (s *State) shares() []ViewShare {
	layers := make([][]sharing.Layer, len(s.Views))
	inPlace := make([]bool, len(s.Views))
	for i, v := range s.Views {
		layers[i] = sharing.Layers(v.View, v.Definitions)
		inPlace[i] = v.Proof != nil && v.Proof.State() == mounter.Active
	}
	all := make([]ViewShare, len(s.Views))
	for i, share := range sharing.Shares(layers, inPlace) {
		v := s.Views[i]
		all[i] = ViewShare{Target: v.Target, Level: v.Name, PrivateBytes: -1, Share: share}
		if n := slices.IndexFunc(s.Private, func(p Private) bool { return v.Upper == mounter.Upper(p.Dir) }); n >= 0 {
			all[i].PrivateBytes = s.Private[n].Bytes
		}
	}
	return all
}

// NewReport sums a State and its findings up. PrivateBytes is -1 if it is not known.
func NewReport(s *State, findings []finding.Finding) *Report {
	r := &Report{Findings: findings, Unchecked: s.Unchecked, Views: len(s.Views), PrivateBytes: s.PrivateBytes, Shares: s.shares(), Started: s.Now}
	for _, share := range r.Shares {
		r.Total = sharing.Sum([]sharing.Share{r.Total, share.Share})
	}
	for _, i := range s.Images {
		r.LayerBytes += i.Layer.Size
	}
	for _, f := range findings {
		if f.Code == finding.OtherLevel {
			r.OtherLevel++
		}
	}
	return r
}

// Status is the exit status. What could not be checked goes before what was found: a
// result with holes is not to be taken for a whole one.
func (r *Report) Status() int {
	if len(r.Unchecked) > 0 {
		return Unknown
	}
	return finding.Status(r.Findings)
}

func (r *Report) count(s finding.Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Nagios is the report as a plugin prints it: one line, and performance data after "|".
func (r *Report) Nagios() string {
	warnings, critical := r.count(finding.Warning), r.count(finding.Critical)
	text := fmt.Sprintf("%d views", r.Views)
	for _, part := range []struct {
		n    int
		what string
	}{{critical, "critical"}, {warnings, "warnings"}, {len(r.Unchecked), "not checked"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	if len(r.Unchecked) > 0 {
		text += ": " + r.Unchecked[0].What + ": " + r.Unchecked[0].Why
	} else if len(r.Findings) > 0 {
		f := r.Findings[0]
		text += ": " + string(f.Code) + " " + f.Object + ": " + f.Text
	}
	// "|" begins the performance data, and the line is the message.
	text = strings.NewReplacer("|", "/", "\n", "; ").Replace(text)
	state := []string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[r.Status()]
	sizes := ""
	if r.PrivateBytes >= 0 {
		sizes = fmt.Sprintf(" private=%dB;;;0", r.PrivateBytes)
	}
	sizes += fmt.Sprintf(" layers=%dB;;;0 saved=%dB;;;0 in_place=%dB;;;0", r.Total.LayerBytes, r.Total.SharedBytes, r.Total.InPlaceBytes)
	return fmt.Sprintf("LEVELFS %s - %s | views=%d;;;0 other_level=%d;;;0 warnings=%d;;;0 critical=%d;;;0 unchecked=%d;;;0%s time=%.3fs;;;0\n",
		state, text, r.Views, r.OtherLevel, warnings, critical, len(r.Unchecked), sizes, r.Seconds)
}

// Prometheus is the report in the text exposition format. It is written here and not by
// prometheus/common/expfmt, which brings protocol buffers along: of the format, this
// needs numbers, and labels whose values are codes, mount points and levels.
func (r *Report) Prometheus() []byte {
	var b bytes.Buffer
	family := func(name, help string) {
		fmt.Fprintf(&b, "# HELP levelfs_%[1]s %[2]s\n# TYPE levelfs_%[1]s gauge\n", name, help)
	}
	one := func(name, help string, value any) {
		family(name, help)
		fmt.Fprintf(&b, "levelfs_%s %v\n", name, value)
	}
	family("check_findings", "Findings of the last levelfs check, by code.")
	counts := make(map[finding.Code]int)
	for _, f := range r.Findings {
		counts[f.Code]++
	}
	// Those without are there as well: a series that ends is no zero to an alert.
	for _, k := range finding.Kinds() {
		if strings.HasPrefix(string(k.Code), "LV2") || counts[k.Code] > 0 {
			fmt.Fprintf(&b, "levelfs_check_findings{code=\"%s\",severity=\"%s\"} %d\n", escape(string(k.Code)), escape(string(k.Severity)), counts[k.Code])
		}
	}
	one("check_unchecked", "Things that the last levelfs check could not look at.", len(r.Unchecked))
	one("check_status", "Exit status of the last levelfs check: 0 ok, 1 warning, 2 critical, 3 could not check.", r.Status())
	one("views", "Mounted views.", r.Views)
	one("views_other_level", "Mounted views of which another level is wanted.", r.OtherLevel)
	if r.PrivateBytes >= 0 {
		one("private_bytes", "What the private layers take on their disk.", r.PrivateBytes)
	}
	one("layer_bytes", "Size of the layer images that levels of this machine are made of.", r.LayerBytes)
	one("views_layer_bytes", "Size of the layers of all mounted views, each counted as often as views have it.", r.Total.LayerBytes)
	one("views_saved_bytes", "Of it, what is on the disk once although several views have it.", r.Total.SharedBytes)
	one("views_in_place_bytes", "Size of the layers that are executed in place from shared memory, each counted once.", r.Total.InPlaceBytes)
	one("views_unsized_layers", "Layers of mounted views that are not counted, as their size is not known.", r.Total.UnsizedLayers)
	perView := func(name, help string, value func(ViewShare) int64) {
		begun := false
		for _, s := range r.Shares {
			if v := value(s); v >= 0 {
				if !begun {
					family(name, help)
					begun = true
				}
				fmt.Fprintf(&b, "levelfs_%s{view=\"%s\",level=\"%s\"} %d\n", name, escape(Printable(s.Target)), escape(Printable(s.Level)), v)
			}
		}
	}
	perView("view_private_bytes", "What a view's private layer takes on its disk.", func(s ViewShare) int64 { return s.PrivateBytes })
	perView("view_layer_bytes", "Size of a view's layers.", func(s ViewShare) int64 { return s.LayerBytes })
	one("check_timestamp_seconds", "When the last levelfs check began, in seconds since 1970.", r.Started.Unix())
	one("check_duration_seconds", "How long the last levelfs check took.", r.Seconds)
	return b.Bytes()
}

// escape is what the format does to values of labels.
func escape(value string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(value)
}

// WritePrometheus replaces the file for node_exporter's textfile collector, which must
// never see half of it.
func (r *Report) WritePrometheus(path string) error {
	return renameio.WriteFile(path, r.Prometheus(), 0o644)
}

// A BusyError is a check that runs already.
type BusyError struct{ Lock string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("another levelfs check is running, or cannot end as it waits for something dead (lock on %q)", e.Lock)
}

// Lock keeps a second check from running. It is a flock(2) on a directory that is there,
// as a check writes nothing: on levelfs's run directory, or, where nothing was ever
// mounted, on that of the configuration or on the root. The lock goes with the process.
func Lock(c *config.Config) (unlock func() error, err error) {
	dirs := []string{c.RunDir(), filepath.Dir(c.File()), c.Root()}
	i := slices.IndexFunc(dirs, func(dir string) bool {
		info, err := os.Stat(dir)
		return err == nil && info.IsDir()
	})
	if i < 0 {
		return nil, &fs.PathError{Op: "stat", Path: c.Root(), Err: fs.ErrNotExist}
	}
	f, err := os.Open(dirs[i])
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return f.Close, nil
	case unix.EWOULDBLOCK:
		f.Close()
		return nil, &BusyError{Lock: dirs[i]}
	default:
		f.Close()
		return nil, &fs.PathError{Op: "flock", Path: dirs[i], Err: err}
	}
}
