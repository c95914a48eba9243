// Package s390x tests package dcss, mounts and levelfs's verbs for segments with the
// kernel's dcssblk driver, in an s390x guest for which the test plays CP. Run it with
// make test-guests; the build tag guests keeps it out of the other tests.
package s390x
