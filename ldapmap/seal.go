package ldapmap

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
)

// Seal is the digest over all that a level's content depends on: its name, and the
// names, file system types and digests of its layers, topmost first, as
// "sha256:" and 64 hex digits. It is written into the level when it is released
// (levelfsSeal), so that layers that are changed behind the level's back show.
func Seal(level string, layers []Layer) string {
	h := sha256.New()
	io.WriteString(h, level+"\n") // a hash takes everything
	for _, l := range layers {
		io.WriteString(h, l.Name+" "+l.FSType+" "+l.Digest+"\n")
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// checkSeal refuses a sealed level with other layers.
func (l Level) checkSeal(layers []Layer) error {
	if l.Seal == "" || l.Seal == Seal(l.Name, layers) {
		return nil
	}
	return &SealError{Level: l.Name, DN: l.DN}
}
