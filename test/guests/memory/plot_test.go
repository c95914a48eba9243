package memory

import (
	"encoding/xml"
	"strings"
	"testing"
)

// TestPlot: it is XML, and a point lies where its value says.
func TestPlot(t *testing.T) {
	text := Plot("title", []int{1, 2, 4}, []Series{{Name: "one", Color: "red", MiB: map[int]float64{1: 0, 2: 50, 4: 100}}})
	var picture struct {
		Circles []struct {
			X float64 `xml:"cx,attr"`
			Y float64 `xml:"cy,attr"`
		} `xml:"circle"`
	}
	if err := xml.Unmarshal([]byte(text), &picture); err != nil {
		t.Fatal(err)
	}
	c := picture.Circles
	if len(c) != 3 || c[0].X >= c[1].X || c[1].X >= c[2].X || c[0].Y-c[1].Y != c[1].Y-c[2].Y || c[0].Y <= c[1].Y {
		t.Errorf("points %+v", c)
	}
	if !strings.Contains(text, "100 MiB") {
		t.Error("the last value is not written at its line")
	}
}
