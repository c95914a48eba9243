// Package watch learns of changes of the inventory as they are made, and has something
// done about them: from directory servers by content synchronisation (RFC 4533), from
// LDIF files by inotify(7).
//
// It does not look at what has changed: whoever is called asks the inventory. Many
// changes in a row are one, and a wait of random length keeps ten thousand machines from
// asking at once. A source that is lost is tried again and again, and every time that it
// is there again counts as a change, since some may have been missed.
//
// When not to use it: where a change may wait for the next mount, or for a timer.
package watch
