package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Severities and facility of RFC 3164, section 4.1.1.
const (
	severityError   = 3
	severityWarning = 4
	severityInfo    = 6
	facilityDaemon  = 3 << 3
)

// A reporter says what went wrong on standard error and in the system log:
// automount shows what a mount helper prints only at its debug level.
type reporter struct {
	program string
	stderr  io.Writer
	spec    string
}

func (r *reporter) error(err error) { r.say(severityError, "", err.Error()) }

func (r *reporter) warn(text string) { r.say(severityWarning, "warning: ", text) }

// hook hands on a line that a hook has printed.
func (r *reporter) hook(name, line string) { r.say(severityInfo, "hook "+name+": ", line) }

func (r *reporter) say(severity int, kind, text string) {
	text = strings.ReplaceAll(text, "\n", "; ")
	if r.spec != "" {
		text = fmt.Sprintf("%q: %s", r.spec, text)
	}
	fmt.Fprintf(r.stderr, "%s: %s%s\n", r.program, kind, text)
	r.syslog(severity, kind+text)
}

// syslog sends one message to the local log socket (RFC 3164 format, as syslog(3)
// does; systemd-journald listens there too). log/syslog would pull in the whole of
// package net to write one datagram. Without a log, standard error has to do.
func (r *reporter) syslog(severity int, text string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	message := fmt.Sprintf("<%d>%s[%d]: %s", facilityDaemon|severity, r.program, os.Getpid(), text)
	// Nothing can be done about a full or absent log.
	_ = unix.Sendto(fd, []byte(message), 0, &unix.SockaddrUnix{Name: "/dev/log"})
}
