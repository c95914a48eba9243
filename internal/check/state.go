package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// A State is what was found out about a machine. The zero value of a part says that
// there is nothing of it, or that it could not be looked at: then it is in Unchecked.
type State struct {
	Config *config.Config
	Keys   []ldapmap.Key // what it is about; none: everything
	Now    time.Time

	Views     []View
	Mounts    []Mount           // of any kind, in the order in which they were made
	Defaults  map[string]string // overlayfs's options where a mount does not show them
	Wants     []Want
	Images    []Image
	Lists     []List // those only that are not what they should be
	Private   []Private
	Attached  []string // devices of segments, by whomever, as their segments are named: "A:B"
	Segments  []string // of them, those that levelfs attached, by the names of the devices
	Down      Down
	Clocks    []Clock
	Perms     []Perm
	NoWrites  []string             // mount points of read-only file systems for private layers
	Refused   []*hook.RefusedError // hooks, and directories of them
	Autofs    *Autofs              // nil: levelfs's master map is not installed
	Hung      []Process
	Unchecked []Unchecked

	PrivateBytes int64 // in all private layers; -1: not asked for, or not known
}

// A View is a mounted view, and what looking into it gave.
type View struct {
	mounter.View
	Asker
	Since    time.Time      // zero: not known
	Readable bool           // its root directory could be read
	Holders  []int          // processes that use it, if another level is wanted
	Proof    *mounter.Proof // of layers in shared memory; nil: it has none, or it is not known
	// Definitions are those of its layers, also above the level, that are in the cache.
	Definitions []ldapmap.Layer
}

// An Asker is whose level of which component is wanted. Level is set where a level was
// asked for by its name.
type Asker struct{ User, Component, Level string }

func (a Asker) query(host string) ldapmap.Query {
	return ldapmap.Query{Key: ldapmap.Key{Component: a.Component, Level: a.Level}, Host: host, User: a.User}
}

// A Mount is a line of /proc/self/mountinfo.
type Mount struct {
	Target, FSType, Source string
	ID, Parent             int
	Major, Minor           uint32 // device number
	SuperReadOnly          bool   // the file system is, whatever its mount is
}

// A Want is the inventory's answer to an Asker.
type Want struct {
	Asker
	Level  string          // full name; "" with an error
	Err    error           // the next access fails, and why
	Above  []string        // contents of the layers above the level, topmost first
	Layers []mounter.Layer // all of them, as they are on this machine
	// Missing is why the level cannot be mounted here although the inventory gives it.
	Missing error

	resolution *ldapmap.Resolution // nil with an error
}

// differs reports whether the view shows something else than what is wanted: another level,
// or other layers above it.
func (w Want) differs(v View) bool {
	return w.Level != "" && (w.Level != v.Name || !slices.Equal(w.Above, v.Above()))
}

// Resolution is how the level was found, and what it is made of; nil with an error.
func (w Want) Resolution() *ldapmap.Resolution { return w.resolution }

// An Image is an image file that a wanted or a mounted level is made of.
type Image struct {
	Layer mounter.Layer
	Level string // one that it belongs to
	Err   error  // nil: its size and its superblock are the layer's
}

// A List is the list of a layer's files that lies beside the image.
type List struct {
	Path  string
	Level string // one that the layer belongs to
	Err   error  // it is not whole, or not the one of the inventory
}

// A Private is a private layer.
type Private struct {
	User, Component string   // User "": the host's
	Dir             string   // absolute
	Unfinished      []string // names in it that belong to work that was interrupted
	NoComponent     bool     // the inventory has none of that name
	NoAccount       bool     // the user has none on this machine
	Bytes           int64    // that it takes on its disk; -1: not asked for, or not known
	Stale           *Stale   // nil: nothing is stale, as far as that could be told
}

// diff is the command that shows them.
func (p Private) diff() string {
	if p.User != "" {
		return "levelfs diff " + p.Component + " --user " + p.User
	}
	return "levelfs diff " + p.Component
}

// Stale are private files that hide a shared one which has changed since, or the like; see
// levelfs diff.
type Stale struct {
	Level string   // the level that they hide files of
	Files int      // how many there are
	Paths []string // of the first of them, with what they are
}

// A Down is the note that no server answered.
type Down struct {
	Since  time.Time // zero: there is none
	Why    string
	Oldest time.Time // of the answers that stand in for theirs
	Answer string    // whose that is: a component
}

// A Clock is the latest moment of which a directory server says that something was written.
type Clock struct {
	Source  string
	Written time.Time
}

// A Perm is a file or a directory whose rights matter.
type Perm struct {
	Path  string
	What  PermKind
	Mode  uint32 // permission bits
	Owner uint32 // uid
	Self  uint32 // uid that it should have, besides root's
}

// PermKind says which rights a Perm may have.
type PermKind int

// The kinds.
const (
	PermConfig  PermKind = iota // may be read by all, written by root
	PermPrivate                 // a directory for root only
	PermCache                   // likewise
	PermSecret                  // a file for root only
)

// An Autofs is how automount comes to serve the trees.
type Autofs struct {
	Master   string   // auto.master
	Map      string   // levelfs.autofs
	Included bool     // auto.master reads the directory that Map is in
	Programs []string // map programs that cannot be run
	Helper   string   // where mount(8) finds the mount helper; ""
	Tree     bool     // the shared tree is in the Map
	Served   bool     // and is an autofs
}

// A Process is one that looks like a map program that was never started.
type Process struct {
	PID int
	Age time.Duration
}

// Object names the process in a finding.
func (p Process) Object() string { return fmt.Sprintf("process %d", p.PID) }

// WhatInventory is the Unchecked inventory.
const WhatInventory = "inventory"

// An Unchecked is what could not be looked at.
type Unchecked struct {
	What string `json:"what"`
	Why  string `json:"why"`
}
