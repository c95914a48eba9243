package finding

import (
	"slices"
	"strings"
)

// Repair says how far "levelfs repair" may go about findings of a kind.
type Repair string

// The ways. A single finding may allow less than its kind.
const (
	Safe   Repair = "safe"   // it is mended without a question: nobody loses anything
	Ask    Repair = "ask"    // after a question, or with --yes: something is unmounted, ended or moved
	Manual Repair = "manual" // never: a person has to decide, or to bring something
)

// A Mending is what "levelfs repair" does about findings of a kind.
type Mending struct {
	Code   Code
	Repair Repair
	Does   string // full sentences: what it does, or why it does nothing
}

// Mending is that of the code. Inventories are mended by edits, of which repair makes
// none.
func (c Code) Mending() Mending {
	if i := slices.IndexFunc(mendings(), func(m Mending) bool { return m.Code == c }); i >= 0 {
		return mendings()[i]
	}
	m := Mending{Code: c, Repair: Manual}
	if strings.HasPrefix(string(c), "LV1") {
		m.Does = "It never changes an inventory: the finding names the edit."
	}
	return m
}

// mendings has a line for each code of a machine.
func mendings() []Mending {
	return []Mending{
		{OtherLevel, Safe, "It switches the view to the wanted level, as levelfs switch does. While a file in it is open for writing, it leaves it."},
		{NoMoreLevel, Manual, "It never changes an inventory."},
		{Stranger, Ask, "It unmounts it, unless it is in use, or is in memory and not empty."},
		{UnsafeOptions, Ask, "It unmounts the view, unless it is in use or its private layer is in memory. The private files stay as they are."},
		{ForeignUpper, Ask, "It unmounts the view, unless it is in use. What was written stays where it is, for you to move."},
		{ReadOnlyPrivate, Safe, "It ends a switch that was interrupted. Of a view that was remounted, or whose disk has errors, it only says what to type."},
		{StackedViews, Safe, "It ends a switch that was interrupted. Where two views were mounted by hand, it unmounts the upper one, after a question."},
		{MountInView, Ask, "It unmounts it, unless it is in use, or is in memory and not empty."},
		{MissingImage, Manual, "It fetches no images."},
		{OtherImage, Manual, "It fetches no images, and changes none."},
		{NoXIP, Manual, "What is missing has to be found out: the finding says why."},
		{XIPOff, Ask, "Where the memory is there now, it unmounts the view, unless it is in use; the next access mounts it from the memory. Otherwise it only says why."},
		{OtherList, Manual, "It fetches no lists of files."},
		{UnusedSegment, Safe, "It detaches the segment, as levelfs gc does, if the driver lets it go."},
		{PrivateOfNone, Ask, "It moves the whole private layer into a dated backup, unless a view uses it. Nothing is deleted."},
		{PrivateOfNobody, Ask, "It moves the whole private layer into a dated backup, unless a view uses it. Nothing is deleted."},
		{Unfinished, Safe, "It removes the file, or the directory if it is empty, under the lock of the private layer."},
		{StalePrivate, Manual, "Which of the two files is right, a person has to say."},
		{NoWrites, Manual, "It remounts nothing: the kernel may have had its reasons."},
		{ServersDown, Safe, "If the inventory has answered the check, it removes the note."},
		{OldAnswers, Safe, "If the inventory has answered the check, it removes the note; the answers are renewed at the next access."},
		{ClockAhead, Manual, "It sets no clocks."},
		{OpenConfig, Safe, "It gives the file to root and takes the rights from others. What they have written stays: read it."},
		{OpenPrivate, Safe, "It gives the directory to root and closes it for others."},
		{OpenCache, Safe, "It gives the directory to root and closes it for others. If others could write there, remove what is in it: all of it can be had again."},
		{OpenSecret, Safe, "It gives the file to root and closes it for others. The secret may be known: change it."},
		{OpenHook, Manual, "It lets nothing run as root that somebody else may have written."},
		{NoMapProgram, Safe, "If levelfs's own map program is on this machine, it makes a link to it, or makes it executable."},
		{NotIncluded, Safe, "It adds the line. automount reads it when it is told to: systemctl reload autofs."},
		{NoHelper, Safe, "If levelfs's own helper is on this machine, it makes the link to it."},
		{NotServed, Manual, "It starts no services."},
		{HungMap, Ask, "It kills the process, if it still is what the check has seen."},
	}
}
