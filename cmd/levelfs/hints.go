package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/internal/layer"
	"github.com/levelfs/levelfs/internal/private"
	"github.com/levelfs/levelfs/internal/report"
	"github.com/levelfs/levelfs/internal/rollout"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/internal/trial"
	"github.com/levelfs/levelfs/internal/usage"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
	"github.com/levelfs/levelfs/mounter"
)

// hintFor is what to do about an error, or "". All advice is here: packages only
// state facts.
func hintFor(err error) string {
	var (
		notFound   *ldapmap.NotFoundError
		noLevel    *ldapmap.NoLevelError
		ambiguous  *ldapmap.AmbiguousError
		loop       *ldapmap.LoopError
		invalid    *ldapmap.InvalidError
		config     *ldapmap.ConfigError
		down       *ldapmap.UnavailableError
		location   *view.LocationError
		unusable   *ldapmap.UnusableError
		secret     *ldapsource.SecretError
		referral   *ldapsource.ReferralError
		account    *account.UnknownError
		unfit      *layer.UnfitError
		full       *segment.FullError
		busy       *mounter.BusyError
		loss       *mounter.LossError
		unmounted  *notMountedError
		inUse      *inUseError
		part       *partError
		referred   *referredError
		held       *dcss.HeldError
		late       *dcss.DeadlineError
		driver     *dcss.Error
		viewed     *mounter.InUseError
		missing    *private.MissingError
		noMerge    *private.MergeError
		kind       *ldapmap.KindError
		order      *ldapmap.OrderError
		noEntry    *report.NoEntryError
		incomplete *usage.IncompleteError
		stale      *staleError
		noHook     *hook.RefusedError
		failed     *hook.FailedError
	)
	if hint := changeHint(err); hint != "" {
		return hint
	}
	if hint := runHint(err); hint != "" {
		return hint
	}
	switch {
	case errors.Is(err, errNoReport):
		return "set enable = true in [report], and as whom this host writes: levelfs.toml(5)"
	case errors.As(err, &noEntry):
		return "give the host an entry: levelfs assign host:" + noEntry.Host + " COMPONENT=LEVEL; or name its source in [report]"
	case errors.As(err, &noLevel):
		return fmt.Sprintf("add \"levelfsAssignment: %s=LEVEL\" to the host's entry, or give the component a levelfsDefault", noLevel.Component)
	case errors.As(err, &unusable) && unusable.Successor != "":
		return fmt.Sprintf("assign %s instead", unusable.Successor)
	case errors.As(err, &unusable):
		return fmt.Sprintf("assign another level, or change the state or the validity of %s", unusable.Level)
	case errors.As(err, &notFound) && notFound.What == edit.RolloutOf:
		return fmt.Sprintf("levelfs rollout list shows those that there are, and levelfs rollout start %s LEVEL begins one", notFound.Name)
	case errors.As(err, &notFound):
		return fmt.Sprintf("add the %s to the inventory, or correct the name where it is used", notFound.What)
	case errors.As(err, &ambiguous):
		return fmt.Sprintf("remove one of the two, or assign %s=LEVEL on a more specific entry", ambiguous.Component)
	case errors.As(err, &kind) && kind.Want == ldapmap.KindVendor:
		return "a level is the same for everybody: leave the layer out of it, and put it above with \"levelfs customize\""
	case errors.As(err, &kind):
		return fmt.Sprintf("refer to a layer of that kind, or to this one where layers of kind %s go: levelfs lint shows all of them", kind.Kind)
	case errors.As(err, &order):
		return fmt.Sprintf("give one of the two another number: levelfs customize CALLER %s=%s --order NN", order.Component, order.B.Layer)
	case errors.As(err, &loop):
		return fmt.Sprintf("remove the levelfsProfileRef from profile %s to %s", loop.Profiles[len(loop.Profiles)-2], loop.Profiles[len(loop.Profiles)-1])
	case errors.As(err, &invalid):
		return fmt.Sprintf("correct %s in %s", invalid.Attr, invalid.DN)
	case errors.As(err, &down) && filepath.IsAbs(down.Source): // a directory of files
		return "see who has it: fuser -v " + down.Source
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
	case errors.As(err, &config) && errors.Is(err, fs.ErrPermission):
		return "run it as root"
	case errors.As(err, &config) && filepath.IsAbs(config.Source) && !errors.Is(err, fs.ErrNotExist):
		return "correct the file in " + config.Source
	case errors.As(err, &config):
		return "correct the [[source]] in levelfs.toml"
	case errors.As(err, &viewed) && viewed.Target != "":
		return "umount " + viewed.Target
	case errors.As(err, &viewed):
		return "end the processes that use it: fuser -vm, or the container that has it mounted"
	case errors.As(err, &noHook):
		return noHook.Remedy
	case errors.As(err, &failed):
		return fmt.Sprintf("see what it says; to be without it: chmod -x %s", failed.Hook)
	case errors.As(err, &stale):
		return stale.remedy()
	case errors.As(err, &noMerge):
		return "decide for one of the two: levelfs adopt --as mine or --as theirs"
	case errors.As(err, &missing):
		return "copy the image, or its list of files IMAGE.mtree, to where images are"
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
	case errors.As(err, &inUse) && inUse.Use.Any():
		return "unmount the views and end the processes; a process keeps a view that was unmounted lazily"
	case errors.As(err, &part):
		return "name the device: " + part.Device.Name
	case errors.As(err, &referred):
		return "assign other levels first (levelfs plan COMPONENT --host NAME says who runs what and why), or give --force"
	case errors.As(err, &held):
		return fmt.Sprintf("use that device, or detach it: levelfs segment detach '%s'", held.Device.Name)
	case errors.As(err, &late) && late.Started:
		return "CP may need minutes for a segment that it loads from spool: see later what came of it with levelfs segment list"
	case errors.As(err, &late):
		return "see who has the lock file in /run/levelfs/dcss: fuser -v /run/levelfs/dcss/*.lock"
	case errors.As(err, &driver):
		return segmentRemedy(driver)
	case errors.Is(err, dcss.ErrNoDriver):
		return "modprobe dcssblk, in a guest of z/VM"
	case errors.Is(err, dcss.ErrNotAttached):
		return "see what is attached: levelfs segment list"
	case errors.As(err, &incomplete) && incomplete.Denied > 0 && os.Geteuid() == 0:
		return "root has fewer rights here than those who run them: look from outside of this container"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root"
	}
	return ""
}

// segmentRemedy is what to do about a refusal of the driver of segments, or "" if the
// driver is not known to refuse so.
func segmentRemedy(e *dcss.Error) string {
	const (
		spool = "see what the kernel says (dmesg | grep -i -e dcssblk -e extmem), and what CP has: vmcp QUERY NSS MAP"
		shape = "see the types and pages that CP has for it (vmcp QUERY NSS MAP), and make it as levelfs segment plan prints it"
		place = "see what has the addresses (grep DCSS /proc/iomem; levelfs segment list); place segments above every guest's storage: segment-range in levelfs.toml"
	)
	switch e.Op {
	case dcss.OpAdd:
		switch e.Errno {
		case unix.ENAMETOOLONG:
			return "give the name of a segment, of 1 to 8 characters"
		case unix.EEXIST:
			return "detach the device that it is on: levelfs segment list says which"
		case unix.EINVAL, unix.EOPNOTSUPP:
			return shape
		case unix.ENOENT:
			return "see whether CP has it, and lets this guest have it: vmcp QUERY NSS MAP; levelfs segment plan prints how it is made"
		case unix.EIO:
			return spool
		case unix.EBUSY, unix.ENOSPC, unix.ERANGE:
			return place
		case unix.EPERM:
			return "another part of the kernel has it loaded, such as monwriter or xpram: unload that, or load it in the same mode"
		case unix.ENOSYS:
			return "segments are for guests of z/VM: leave them out with xip = \"off\" in levelfs.toml"
		case unix.ENOMEM:
			return "free some memory, and try again"
		case unix.ENODEV:
			return "modprobe dcssblk, and try again"
		}
	case dcss.OpRemove:
		switch e.Errno {
		case unix.ENAMETOOLONG:
			return "give the name of a device, as levelfs segment list prints it"
		case unix.ENODEV:
			return "give the name of a device, which is that of its first segment: levelfs segment list"
		case unix.EBUSY:
			return "see who has it: fuser -vm /dev/dcssblkN, levelfs segment list, and containers, which mount in namespaces of their own"
		}
	case dcss.OpShared:
		switch e.Errno {
		case unix.EBUSY:
			return "unmount and close the device: levelfs segment list says who uses it"
		case unix.EINVAL:
			return "define it with type SR: levelfs segment plan prints how"
		case unix.EAGAIN:
			return "unload the part of the kernel that uses it, and try again"
		case unix.EIO:
			return spool + "; then attach it again"
		case unix.ENOENT:
			return "define and save it again: levelfs segment plan prints how"
		}
	case dcss.OpSave:
		if e.Errno == unix.EINVAL {
			return "write 1 to save it"
		}
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
		gate      *rollout.GateError
		program   *rollout.ProgramError
		over      *edit.RolloutStateError
		half      *edit.UnfinishedError
		changed   *edit.ChangedError
	)
	switch {
	case errors.As(err, &gate) && len(gate.Failed) > 0:
		return "see to these hosts, or give it up: levelfs rollout abort " + componentPart(gate.Level)
	case errors.As(err, &gate):
		return "wait, or have them report (levelfs report); --missing-ok N goes on without N of them"
	case errors.As(err, &program):
		return "see what it says above; or give the roll-out up: levelfs rollout abort"
	case errors.As(err, &half):
		return "complete it: levelfs rollout abort " + half.Component
	case errors.As(err, &over) && over.State == ldapmap.RolloutPaused:
		return "let it go on, or give it up: levelfs rollout resume, or abort, " + componentPart(over.Rollout)
	case errors.As(err, &over) && over.State == ldapmap.RolloutRunning:
		return "complete it, or give it up: levelfs rollout promote, or abort, " + componentPart(over.Rollout)
	case errors.As(err, &changed):
		return fmt.Sprintf("have it assign what the roll-out gave it (levelfs profile set %s %s=%s), or give the roll-out up: levelfs rollout abort %s",
			changed.Profile, changed.Component, changed.Want, changed.Component)
	case errors.As(err, &conflict):
		return "look at it again, and repeat the command: \"levelfs level history\" shows who changed it"
	case errors.As(err, &left) && len(left.commands) > 0:
		return strings.Join(append([]string{"give them another level first:"}, left.commands...), "\n")
	case errors.As(err, &left):
		return "give them another level first, or repeat the command with --force"
	case errors.As(err, &choice):
		return "say which one: --local for the first source, --central for the last"
	case errors.As(err, &name) && strings.Contains(name.Candidates[0], "="): // DNs, which commands do not take
		return "delete one of these entries, or give it another name"
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

// runHint is what to do about an error of run alone, or "".
func runHint(err error) string {
	var (
		namespace   *trial.NamespaceError
		undelivered *undeliveredError
		empty       *emptyProfileError
		command     *trial.CommandError
	)
	switch {
	case errors.As(err, &namespace):
		return "run it as root: sudo levelfs run ... -- runuser -u \"$USER\" -- COMMAND"
	case errors.As(err, &undelivered):
		return fmt.Sprintf("see what it would be: levelfs plan %s\nroot can mount it without automount: sudo levelfs run", undelivered.key)
	case errors.As(err, &empty):
		return fmt.Sprintf("see what it says: levelfs profile show %s", empty.profile)
	case errors.As(err, &command) && command.NotFound():
		return "give the command after --, as it is found by PATH"
	}
	return ""
}
