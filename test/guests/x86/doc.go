// Package x86 tests what levelfs needs of pmem devices in an x86-64 guest with
// virtio-pmem: package internal/pmem, layers mounted with DAX, and an overlay over
// them. Run it with make test-guests; the build tag guests keeps it out of the other
// tests.
package x86
