package cache

import (
	"os"
	"testing"
	"time"
)

// TestDown: a note holds for the interval, for everybody; then for all but the
// first who asks; and not if the configuration is newer.
func TestDown(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	if why, _, down := c.Down(time.Hour, time.Time{}); down {
		t.Errorf("down without a note: %q", why)
	}
	c.SetDown("it does not answer")
	for range 2 {
		if why, since, down := c.Down(time.Hour, time.Time{}); !down || why != "it does not answer" || time.Since(since) > time.Minute {
			t.Errorf("%q, %v, %v", why, since, down)
		}
	}
	if _, _, down := c.Down(time.Hour, time.Now().Add(time.Second)); down {
		t.Error("down in spite of a newer configuration")
	}
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(c.downFile(), past, past); err != nil {
		t.Fatal(err)
	}
	if _, _, down := c.Down(time.Hour, time.Time{}); down {
		t.Error("nobody asks after the interval")
	}
	if _, _, down := c.Down(time.Hour, time.Time{}); !down {
		t.Error("everybody asks after the interval")
	}
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(c.downFile(), future, future); err != nil {
		t.Fatal(err)
	}
	if _, _, down := c.Down(time.Hour, time.Time{}); down {
		t.Error("a note of the future, by a clock that was set back, holds")
	}
	c.ClearDown()
	if _, _, down := c.Down(time.Hour, time.Time{}); down {
		t.Error("down after it was cleared")
	}
	// Where nothing can be written nothing is noted, and nothing fails.
	(Cache{Dir: "/proc/none"}).SetDown("x")
	(Cache{Dir: "/proc/none"}).ClearDown()
}
