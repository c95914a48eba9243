package ldifsource

import (
	"fmt"

	"github.com/levelfs/levelfs/ldapmap"
)

// File returns the entries of one LDIF file, read as one of an inventory would be.
func File(path string) ([]ldapmap.Entry, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	entries, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, nil
}
