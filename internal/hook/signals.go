package hook

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Endings are the signals that ask a program which runs hooks for its end, after which the hooks
// that are left to run do: also that of a terminal or a connection that is gone, but for who is
// to outlive it (nohup(1)).
func Endings() []os.Signal {
	signals := []os.Signal{unix.SIGINT, unix.SIGTERM}
	if !signal.Ignored(unix.SIGHUP) {
		signals = append(signals, unix.SIGHUP)
	}
	return signals
}

// Deafen has writing to who does not read any more, as in "2>&1 | head -1", fail instead of
// ending the process: between two hooks the second, which starts again what the first has
// stopped, would never run. Until the function that it returns is called; whom the process
// executes it does not concern.
func Deafen() func() {
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	return func() { signal.Stop(pipe) }
}
