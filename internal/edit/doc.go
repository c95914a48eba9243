// Package edit turns what somebody wants of an inventory ("this host runs that level
// of emacs") into changes of entries, each of which is made whole or not at all, and
// only on the entry that it was made for.
//
// It does no input or output: an [Intention] looks at a [fleet.Fleet], which is an
// inventory in memory, and returns [Step]s. To see what they would do, make them in
// memory (Fleet.With) and compare (fleet.Diff); to do it, hand them to the sources'
// Apply. An intention that finds nothing to change returns no steps.
//
// Each step leaves a [Record] in the entry that it changes: see [Step.Edit].
//
// When not to use it: to write entries as they are, such as an import. Nothing here
// changes the layers of a level that is there already, and nothing ever shall.
package edit
