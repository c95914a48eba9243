// Package config reads levelfs.toml and knows where levelfs keeps its files.
//
// All paths lie below one root, "/" unless the environment variable LEVELFS_ROOT
// names another, so that a test or a trial never meets the machine's own state.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/levelfs/levelfs/ldapmap"
)

// RootVariable is the environment variable that moves every path of levelfs.
const RootVariable = "LEVELFS_ROOT"

// A Config is the contents of levelfs.toml and the root that it was read under.
type Config struct {
	// Host is the name that this machine is looked up by. Empty: its host name.
	Host string `toml:"host"`
	// Images are the directories below which layer images may lie. A relative
	// location in the inventory is looked for in each of them in turn; an absolute
	// one is refused unless it lies in one of them.
	Images []string `toml:"images"`
	// Directories are those below which a plain directory may be used as a layer.
	// None by default: nothing checks such a layer's content.
	Directories []string `toml:"directories"`
	// Tree is where the shared tree is: the mount point of the indirect map.
	Tree string `toml:"tree"`
	// Map is the map program, which the mount helper asks for a level that it was
	// not handed.
	Map string `toml:"map"`
	// Retry is for how long servers that did not answer are not asked again.
	// Default: 30s.
	Retry Duration `toml:"retry"`
	// Keep is for how long the last answer stands in for servers that do not answer.
	// Default: 720h, 30 days.
	Keep Duration `toml:"keep"`
	// KeepBackups is for how long what was taken out of private layers is kept: after that
	// levelfs gc removes it. Default: for ever.
	KeepBackups Duration `toml:"keep-backups"`
	// Maps says whose level a map program gives, by the name that it is installed
	// under: "auto.levelfs" and symbolic links to it.
	Maps map[string]Map `toml:"maps"`
	// CacheSize is how much the cache may hold. Default: 16 MiB.
	CacheSize Size `toml:"cache-size"`
	// XIP is what is wanted of execution in place from segments and pmem devices: auto,
	// require or off, where neither the layer nor its component says. Default: auto.
	XIP string `toml:"xip"`
	// OnStale is what a change of level does about private files that would be stale,
	// where the component does not say: warn or stop. Default: warn.
	OnStale string `toml:"on-stale"`
	// HookTime bounds each hook of a change of level. Default: 30s.
	HookTime Duration `toml:"hook-time"`
	// SegmentRange is where segments are planned, BEGIN-END in pages as DEFSEG takes
	// them. Empty: the planner's own default. It is read by those who plan.
	SegmentRange string `toml:"segment-range"`
	// CheckTime bounds a run of levelfs check. Default: 60s.
	CheckTime Duration `toml:"check-time"`
	// CheckRate is how much of layer images levelfs check --deep reads in a second.
	// Default: 50 MiB.
	CheckRate Size `toml:"check-rate"`
	// Sources are the inventories, in order: an earlier one goes before a later
	// one at the same rank.
	Sources []Source `toml:"source"`
	// Report is where this machine writes what it runs.
	Report Report `toml:"report"`
	// Watch is how levelfs watch takes its time.
	Watch Watch `toml:"watch"`

	root string
}

// A Duration is written as "2s" or "500ms". It is a struct so that TOML's numbers,
// which have no unit, are refused.
type Duration struct{ time.Duration }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q: must be a duration such as 2s", text)
	}
	d.Duration = v
	return nil
}

// Load reads the configuration of the machine, or of the root that LEVELFS_ROOT
// names. A missing file is no error: the defaults serve an LDIF inventory.
func Load() (*Config, error) {
	root := "/"
	// A program that runs with more rights than its caller has must not let the
	// caller choose its files (mount(8) is set-user-ID).
	if r := os.Getenv(RootVariable); r != "" && os.Getuid() == os.Geteuid() {
		if root = filepath.Clean(r); !validPath(root) {
			return nil, fmt.Errorf("%s=%q: %s", RootVariable, r, wantPath)
		}
	}
	return LoadFrom(root)
}

// LoadFrom reads the configuration below a root.
func LoadFrom(root string) (*Config, error) {
	c := &Config{root: root}
	name := c.File()
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := c.parse(text); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func (c *Config) parse(text []byte) error {
	decoder := toml.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(c); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) {
			row, _ := unknown.Errors[0].Position()
			return fmt.Errorf("line %d: unknown key %q", row, strings.Join(unknown.Errors[0].Key(), "."))
		}
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			row, _ := bad.Position()
			return fmt.Errorf("line %d: %w", row, err)
		}
		return err
	}
	if c.Map == "" {
		c.Map = "/usr/libexec/levelfs/auto.levelfs"
	}
	switch c.XIP {
	case "", "auto", "require", "off":
	default:
		return fmt.Errorf("xip %q: must be auto, require or off", c.XIP)
	}
	switch c.OnStale {
	case "":
		c.OnStale = "warn"
	case "warn", "stop":
	default:
		return fmt.Errorf("on-stale %q: must be warn or stop", c.OnStale)
	}
	if c.HookTime.Duration == 0 {
		c.HookTime.Duration = 30 * time.Second
	}
	if c.Tree == "" {
		c.Tree = "/sw"
	}
	if c.Retry.Duration == 0 {
		c.Retry.Duration = 30 * time.Second
	}
	if c.Keep.Duration == 0 {
		c.Keep.Duration = 30 * 24 * time.Hour
	}
	if c.CacheSize.Bytes == 0 {
		c.CacheSize.Bytes = 16 << 20
	}
	if c.CheckTime.Duration == 0 {
		c.CheckTime.Duration = time.Minute
	}
	if c.CheckRate.Bytes == 0 {
		c.CheckRate.Bytes = 50 << 20
	}
	c.Watch.complete()
	for name, m := range c.Maps {
		if err := m.check(name, c.Map); err != nil {
			return fmt.Errorf("maps.%q: %w", name, err)
		}
	}
	if c.Images == nil {
		c.Images = []string{c.path("/var/lib/levelfs/images")}
	}
	if c.Sources == nil {
		c.Sources = []Source{{Type: "ldif", Path: c.path("/etc/levelfs/inventory.d")}}
	}
	for _, dir := range append(append([]string{c.Map, c.Tree}, c.Images...), c.Directories...) {
		if !validPath(dir) {
			return fmt.Errorf("%q: %s", dir, wantPath)
		}
	}
	for i := range c.Sources {
		if err := c.Sources[i].complete(c); err != nil {
			return fmt.Errorf("source %d: %w", i+1, err)
		}
	}
	if err := c.Report.check(c.Sources); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

const wantPath = "must be a clean absolute path of letters, digits and /._+@~-"

func validPath(p string) bool {
	return filepath.IsAbs(p) && filepath.Clean(p) == p && ldapmap.PlainPath(p)
}

// Hostname is the name that this machine is looked up by.
func (c *Config) Hostname() (string, error) {
	if c.Host != "" {
		return c.Host, nil
	}
	return os.Hostname()
}

// Root is the directory below which levelfs finds and keeps everything: "/", unless
// LEVELFS_ROOT says otherwise.
func (c *Config) Root() string { return c.root }

func (c *Config) path(p string) string { return filepath.Join(c.root, p) }

// File is levelfs.toml.
func (c *Config) File() string { return c.path("/etc/levelfs/levelfs.toml") }

// PrivateDir holds the private layers.
func (c *Config) PrivateDir() string { return c.path("/var/lib/levelfs/private") }

// ListDir holds lists of the files of layers, by the layers' digests.
func (c *Config) ListDir() string { return filepath.Join(c.CacheDir(), "manifests") }

// BackupDir holds what was taken out of private layers. It is on their file system.
func (c *Config) BackupDir() string { return c.path("/var/lib/levelfs/backup") }

// CacheDir holds what can be had again: level records and digests that were
// checked.
func (c *Config) CacheDir() string { return c.path("/var/cache/levelfs") }

// Changed is when levelfs.toml was last changed, the zero time if there is none.
func (c *Config) Changed() time.Time {
	info, err := os.Stat(c.File())
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// RunDir holds what does not outlive a boot.
func (c *Config) RunDir() string { return c.path("/run/levelfs") }
