package hook

import (
	"os"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

// Hooks leave processes behind, and the tests see that they are gone.
func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
