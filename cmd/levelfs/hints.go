package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/layer"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
	"github.com/levelfs/levelfs/mounter"
)

// hintFor is what to do about an error, or "". All advice is here: packages only
// state facts.
func hintFor(err error) string {
	var (
		notFound  *ldapmap.NotFoundError
		noLevel   *ldapmap.NoLevelError
		ambiguous *ldapmap.AmbiguousError
		loop      *ldapmap.LoopError
		invalid   *ldapmap.InvalidError
		config    *ldapmap.ConfigError
		down      *ldapmap.UnavailableError
		location  *view.LocationError
		unusable  *ldapmap.UnusableError
		secret    *ldapsource.SecretError
		referral  *ldapsource.ReferralError
		account   *account.UnknownError
		unfit     *layer.UnfitError
		full      *segment.FullError
		busy      *mounter.BusyError
		loss      *mounter.LossError
		unmounted *notMountedError
	)
	if hint := changeHint(err); hint != "" {
		return hint
	}
	switch {
	case errors.As(err, &noLevel):
		return fmt.Sprintf("add \"levelfsAssignment: %s=LEVEL\" to the host's entry, or give the component a levelfsDefault", noLevel.Component)
	case errors.As(err, &unusable) && unusable.Successor != "":
		return fmt.Sprintf("assign %s instead", unusable.Successor)
	case errors.As(err, &unusable):
		return fmt.Sprintf("assign another level, or change the state or the validity of %s", unusable.Level)
	case errors.As(err, &notFound):
		return fmt.Sprintf("add the %s to the inventory, or correct the name where it is used", notFound.What)
	case errors.As(err, &ambiguous):
		return fmt.Sprintf("remove one of the two, or assign %s=LEVEL on a more specific entry", ambiguous.Component)
	case errors.As(err, &loop):
		return fmt.Sprintf("remove the levelfsProfileRef from profile %s to %s", loop.Profiles[len(loop.Profiles)-2], loop.Profiles[len(loop.Profiles)-1])
	case errors.As(err, &invalid):
		return fmt.Sprintf("correct %s in %s", invalid.Attr, invalid.DN)
	case errors.As(err, &down):
		server := strings.Fields(down.Source)[0]
		if domain, ok := strings.CutPrefix(server, "srv:"); ok {
			return "see which servers DNS names: dig SRV _ldaps._tcp." + domain
		}
		return "see that the server runs and answers: ldapsearch -x -H " + server + " -b '' -s base"
	case errors.As(err, &secret):
		return fmt.Sprintf("chown root %[1]s && chmod 600 %[1]s", secret.Path)
	case errors.As(err, &referral):
		return "name a server that has the inventory as uri in levelfs.toml, and one that takes changes in [source.write]"
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded):
		return "let whoever reads have more entries: docs/servers.md says how, under Limits"
	case errors.As(err, &config):
		return "correct the [[source]] in levelfs.toml"
	case errors.As(err, &location):
		return "copy the image there, or add its directory to levelfs.toml"
	case errors.As(err, &account):
		return "see what this machine knows of the user: getent passwd " + account.User
	case errors.As(err, &unfit):
		return "make an image that can: levelfs layer build --xip DIR -o IMAGE"
	case errors.As(err, &full):
		return "give a larger --range, retire levels that nobody runs, or let layers share addresses: --reuse"
	case errors.As(err, &busy):
		return "end what uses it, or wait for that with --when-idle"
	case errors.As(err, &loss):
		return "--discard gives it up; or unmount the view, which does so, too"
	case errors.As(err, &unmounted):
		return "there is nothing to change: the next access gets the level that is assigned"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root"
	}
	return ""
}

// xipHint is what to do about one reason why an image cannot be executed in place.
func xipHint(fstype string, kind layer.ProblemKind) string {
	switch kind {
	case layer.NeverXIP:
		return "make it erofs or ext4: levelfs layer build --xip"
	case layer.BadSize:
		return "append zeros: truncate -s %2M IMAGE (its digest changes with it)"
	case layer.Truncated:
		return "the copy is torn: copy the image again"
	case layer.BadBlocks:
		return "make it with blocks of 4096 bytes: mkfs." + fstype + " -b 4096"
	case layer.InlineTails:
		if fstype == "erofs" {
			return "make it without inline tails: mkfs.erofs -Enoinline_data"
		}
		return "make it without the feature: mkfs.ext4 -O ^inline_data"
	case layer.Compressed:
		return "make it without compression: leave out -z"
	case layer.MoreDevices:
		return "make it one image: leave out --blobdev"
	case layer.Journal:
		return "mount and unmount it once writable, or make it without a journal: mkfs.ext4 -O ^has_journal"
	case layer.Encrypted:
		return "store the files without encryption and fs-verity: the digest of the layer protects them"
	}
	return ""
}

// changeHint is what to do about an error of a verb that changes the inventory, or "".
// Each line is a hint of its own.
func changeHint(err error) string {
	var (
		conflict  *ldapmap.ConflictError
		left      *leftError
		choice    *edit.ChoiceError
		name      *edit.AmbiguousNameError
		absent    *edit.AbsentError
		component *edit.NewComponentError
		digest    *edit.DigestError
		exists    *edit.ExistsError
		place     *edit.PlaceError
		referred  *edit.ReferredError
	)
	switch {
	case errors.As(err, &conflict):
		return "look at it again, and repeat the command: \"levelfs level history\" shows who changed it"
	case errors.As(err, &left) && len(left.commands) > 0:
		return strings.Join(append([]string{"give them another level first:"}, left.commands...), "\n")
	case errors.As(err, &left):
		return "give them another level first, or repeat the command with --force"
	case errors.As(err, &choice):
		return "say which one: --local for the first source, --central for the last"
	case errors.As(err, &name):
		return "name one of them: " + strings.Join(name.Candidates, ", ")
	case errors.As(err, &absent) && absent.Kind == edit.Host:
		return "its entry can be made with --in DN, if the server lets you"
	case errors.As(err, &absent):
		return fmt.Sprintf("choose the other source with --local or --central, or make the %s there first", absent.Kind)
	case errors.As(err, &component):
		return "correct the name, or make the component as well with --create-component"
	case errors.As(err, &digest):
		return "a layer never changes: give the new image another name, with \"levelfs layer build --name\""
	case errors.As(err, &exists) && exists.Kind == "level":
		return "a level never changes: publish what is new as another level"
	case errors.As(err, &place):
		return "name the DN below which to make it with --in"
	case errors.As(err, &referred):
		return "undo that first: levelfs unassign CALLER --profile " + referred.Profile
	}
	return ""
}
