package ldapsource

import (
	"context"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// Written is the latest moment at which the server says that something was written, by
// its own clock or that of a server that it has it from: of its contextCSN, which is of
// everything below the base, or else of the base's own modifyTimestamp. The zero time says
// that it tells neither. It takes one search, for one entry.
func (s *Source) Written(ctx context.Context) (time.Time, error) {
	attrs := []string{"contextCSN", "modifyTimestamp"}
	request := ldap.NewSearchRequest(s.config.Base, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=*)", attrs, nil)
	request.SizeLimit, request.EnforceSizeLimit = 1, true
	var result *ldap.SearchResult
	err := s.each(ctx, s.config.Timeout, func(c *connection) (err error) {
		result, err = c.Search(request)
		return said(err)
	})
	if err != nil {
		return time.Time{}, err
	}
	var latest time.Time
	for _, e := range result.Entries {
		for _, attr := range attrs {
			for _, value := range e.GetEqualFoldAttributeValues(attr) {
				if when := moment(value); when.After(latest) {
					latest = when
				}
			}
		}
	}
	return latest, nil
}

// moment is the time in a generalized time (RFC 4517, section 3.3.13) of UTC, or in a CSN,
// which begins with one: 20261124213524.123456Z#000000#001#000000.
func moment(value string) time.Time {
	stamp, _, _ := strings.Cut(value, "#")
	when, err := time.Parse("20060102150405Z", stamp) // takes fractions of a second, too
	if err != nil {
		return time.Time{}
	}
	return when
}
