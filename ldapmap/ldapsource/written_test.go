package ldapsource

import (
	"testing"
	"time"
)

// TestMoment: times as servers write them, and nothing else.
func TestMoment(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 11, 24, 21, 35, 24, 0, time.UTC)
	for value, want := range map[string]time.Time{
		"20261124213524Z":                          want,
		"20261124213524.123456Z#000000#001#000000": want.Add(123456 * time.Microsecond),
		"20261124213524+0100":                      {}, "2026": {}, "": {}, "#": {},
	} {
		if got := moment(value); !got.Equal(want) {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
