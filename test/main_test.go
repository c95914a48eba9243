// Package test runs levelfs as a whole: the commands as they are released, with
// the real automount, slapd, mount(8) and kernel, in a sandbox (internal/testenv).
package test

import (
	"os"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
