// Package repair mends what package check finds on a machine.
//
// It is a planner and an executor. [Plan] turns the findings of a check into steps, with
// what each does as commands or sentences, and changes nothing; how far a step may go is
// said by the kind of its findings (finding.Mending). [Runner] executes steps, checks again, and
// goes on until nothing more can be mended: what one fault hides is seen when it is gone.
//
// A step looks again, under the lock that there is for it, whether what it is about is
// still what the check has seen. Each can be interrupted at any instant: what it leaves is
// the fault, or a machine without it. Private files are never changed or deleted: a whole
// private layer may be moved into a backup, by one rename.
//
// When not to use it: for inventories, which people change.
package repair
