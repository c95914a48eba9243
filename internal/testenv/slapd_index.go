package testenv

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// notIndexed is what slapd says of an attribute in a filter that it has no index
// for: <= mdb_equality_candidates: (levelfsImage) not indexed
var notIndexed = regexp.MustCompile(`<= mdb_\w+_candidates: \(.*\) not indexed`)

// Unindexed returns what slapd has said so far about parts of filters for which it
// has no index. It says so before it answers. It is an error if the log level has no
// "filter".
func (s *Slapd) Unindexed() ([]string, error) {
	i := slices.Index(s.argv, "-d")
	if i < 0 || !strings.Contains(s.argv[i+1], "filter") {
		return nil, errors.New("unindexed searches: slapd was not started with log level filter")
	}
	log, err := os.ReadFile(s.LogFile)
	if err != nil {
		return nil, fmt.Errorf("unindexed searches: %w", err)
	}
	return notIndexed.FindAllString(string(log), -1), nil
}
