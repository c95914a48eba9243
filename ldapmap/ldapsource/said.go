package ldapsource

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// maxSaid is how much is shown of what another machine says, in bytes.
const maxSaid = 300

// said marks an error in whose text another machine had a say: a directory server's
// diagnostic message, a name in a certificate. It is shown in one line of printable
// characters.
func said(err error) error {
	if err == nil {
		return nil
	}
	return &saidError{err}
}

type saidError struct{ err error }

func (e *saidError) Unwrap() error { return e.err }

func (e *saidError) Error() string {
	var r *ldap.Error
	if !errors.As(e.err, &r) {
		return printable(e.err.Error())
	}
	text := "LDAP result"
	if name := ldap.LDAPResultCodeMap[r.ResultCode]; name != "" {
		text = name
	}
	if r.ResultCode < ldap.ErrorNetwork { // beyond are go-ldap's own
		text = fmt.Sprintf("%s (%d)", text, r.ResultCode)
	}
	if diagnostic := r.Err.Error(); diagnostic != "" {
		text += ": " + printable(diagnostic)
	}
	return text
}

// printable is the text as it is, or quoted; too long, its start.
func printable(text string) string {
	if len(text) > maxSaid {
		text = text[:maxSaid] + "..."
	}
	for _, r := range text {
		if !strconv.IsPrint(r) {
			return strconv.Quote(text)
		}
	}
	return text
}

// A ReferralError is a server's answer that others are to be asked instead.
type ReferralError struct{ To []string }

func (e *ReferralError) Error() string {
	var quoted []string
	for _, uri := range e.To {
		quoted = append(quoted, strconv.Quote(uri))
	}
	if quoted == nil {
		return "the server refers to others, and does not say to which"
	}
	return "the server refers to " + strings.Join(quoted, ", ") + "; referrals are not followed"
}

// referral takes the URIs out of an answer with that result (RFC 4511, section
// 4.1.9): element [3] of it.
func referral(err error) error {
	const tag, most = 3, 4
	var r *ldap.Error
	e := new(ReferralError)
	if !errors.As(err, &r) || r.Packet == nil || len(r.Packet.Children) < 2 {
		return e
	}
	for _, part := range r.Packet.Children[1].Children {
		if part.ClassType != ber.ClassContext || part.Tag != tag {
			continue
		}
		for _, uri := range part.Children[:min(len(part.Children), most)] {
			if text := uri.Data.String(); text != "" {
				e.To = append(e.To, text[:min(len(text), maxSaid)])
			}
		}
	}
	return e
}
