// Package private works on private layers for people: it compares them with the shared
// levels (package diff), takes files out of them, and settles what is stale.
//
// What is taken out of a private layer goes into a backup beside it, by rename: nothing is
// ever deleted, and no moment exists at which a file is nowhere. The kernel does not allow
// to change an upper directory that an overlay uses, so these things are done under the
// private layer's lock while no view uses it ([mounter.Hold]); there is no way through the
// view, since removing a file there leaves a whiteout and not the shared file.
package private
