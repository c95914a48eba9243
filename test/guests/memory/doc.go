// Package memory measures what guests take of their host's memory when they use the
// same level: from a device that they share, and each from its own page cache. Run it
// with make bench-memory; the build tag guests keeps it out of the tests.
package memory
