package mounter

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Commands renders the plan as shell commands, one a line, that do by hand what
// an [Applier] does by system calls. They show the layers' mounts for a moment,
// since a shell has no mount namespace to hide them in, and they leave the private
// layer's history alone; otherwise the outcome is the same.
func (p *Plan) Commands() []string {
	var lines []string
	for _, s := range p.Steps {
		lines = append(lines, p.commands(s)...)
	}
	return lines
}

func (p *Plan) commands(s Step) []string {
	switch s.Op {
	case OpTarget:
		return []string{
			"test -d " + quote(s.Target),
			"test -z \"$(findmnt --noheadings --output SOURCE --target " + quote(s.Target) + " | grep ^" + SourcePrefix + ")\"",
		}
	case OpReplaces:
		return []string{fmt.Sprintf("test \"$(findmnt --noheadings --raw --output SOURCE,MAJ:MIN --mountpoint %s)\" = '%s%s %d:%d'",
			quote(s.Target), SourcePrefix, p.Replaces.Name, p.Replaces.Major, p.Replaces.Minor)}
	case OpFreeze:
		return []string{"mount -o remount,ro " + quote(s.Target)}
	case OpLock:
		return []string{
			"mkdir -p -m 0700 " + quote(filepath.Dir(s.Target)),
			"exec 9>>" + quote(s.Target) + " && flock -w 10 9",
		}
	case OpIdle:
		return []string{"test -z \"$(grep -F " + quote("upperdir="+s.Path+",") + " /proc/self/mountinfo)\""}
	case OpCheck:
		return []string{"echo " + quote(strings.TrimPrefix(p.Layers[s.Layer].Digest, "sha256:")+"  "+s.Path) + " | sha256sum --check --quiet"}
	case OpStage:
		return []string{
			"mkdir -p -m 0700 " + quote(s.Target),
			"mount -t tmpfs -o mode=0755 levelfs-stage " + quote(s.Target),
		}
	case OpDevice:
		return p.Layers[s.Layer].deviceCommands()
	case OpMount:
		l := p.Layers[s.Layer]
		if len(l.Devices) > 0 {
			return []string{
				"mkdir " + quote(s.Target),
				"mount -t " + l.FSType + " -o " + quote(strings.Join(append(layerOptions(l.FSType), daxOption(l.FSType)...), ",")) + " \"$device\" " + quote(s.Target),
			}
		}
		return []string{
			"mkdir " + quote(s.Target),
			"loop=$(losetup --find --show --nooverlap --read-only --direct-io=on " + quote(s.Path) + ")",
			"mount -t " + l.FSType + " -o " + quote(strings.Join(layerOptions(l.FSType), ",")) + " \"$loop\" " + quote(s.Target),
			"losetup --detach \"$loop\"", // takes effect with the last umount
		}
	case OpBind:
		options := " -o ro,nodev"
		if p.UserNS {
			options = ""
		}
		return []string{
			"mkdir " + quote(s.Target),
			"mount --bind" + options + " " + quote(s.Path) + " " + quote(s.Target),
		}
	case OpIDMap:
		return []string{
			"# From util-linux 2.39 on; before, the files stay root's.",
			"mount --bind -o " + quote(p.IDMap.option()) + " " + quote(s.Target) + " " + quote(s.Target),
		}
	case OpEmpty:
		return []string{"mkdir " + quote(s.Target)}
	case OpPrivate:
		if p.UserNS { // in which there is one owner
			return []string{
				"mkdir -p " + quote(p.work()),
				"test -d " + quote(s.Target) + " || mkdir -m 0700 " + quote(s.Target),
				"test -O " + quote(s.Target),
			}
		}
		if o := p.Private.Owner; o != nil {
			return []string{
				"mkdir -p " + quote(p.work()),
				"test -d " + quote(s.Target) + fmt.Sprintf(" || install -d -m 0700 -o %d -g %d ", o.UID, o.GID) + quote(s.Target),
				fmt.Sprintf("test \"$(stat -c %%u %s)\" = %d", quote(s.Target), o.UID),
			}
		}
		return []string{
			"mkdir -p " + quote(p.work()),
			"test -d " + quote(s.Target) + " || { mkdir " + quote(s.Target) +
				" && chmod --reference=" + quote(s.Path) + " " + quote(s.Target) +
				" && chown --reference=" + quote(s.Path) + " " + quote(s.Target) + "; }",
		}
	case OpRecord:
		record, file := printLines(p.levelRecord()), quote(s.Target)
		keep := "test ! -e " + file + " || cp -p " + file + " " + quote(p.Private.before())
		if !p.Released {
			return []string{keep, record + " >" + file}
		}
		return []string{
			// A released level is the same for ever: if it is recorded, it is this one. What
			// lies above it may have changed.
			"test -z \"$(grep -sx " + quote("level "+p.Name) + " " + file + ")\" || " +
				"test \"$(grep -v '^above ' " + file + ")\" = \"$(" + printLines(delivered(p.levelRecord())) + ")\"",
			keep,
			record + " >" + file,
		}
	case OpOverlay:
		var lines []string
		if p.Replaces != nil {
			lines = append(lines,
				"# In one instant, and with files open, with mount --beneath (util-linux 2.42) and umount --lazy of the old one.",
				"umount "+quote(s.Target))
		}
		lines = append(lines, "mount -t overlay -o "+quote(p.typedOptions())+" "+quote(p.Source)+" "+quote(s.Target))
		if p.Private != nil && !p.Private.Ephemeral {
			// An empty record: the next mount asks the kernel whether the layer is free.
			lines = append(lines, ": >"+quote(p.Private.lock()), "exec 9>&-")
		}
		return lines
	case OpAlso:
		return []string{"mount --bind " + quote(s.Path) + " " + quote(s.Target)}
	case OpUnstage:
		return []string{"umount -R " + quote(s.Target)}
	}
	return nil
}

// printLines is the command that prints a text.
func printLines(text string) string {
	words := []string{"printf '%s\\n'"}
	for line := range strings.Lines(text) {
		words = append(words, quote(strings.TrimSuffix(line, "\n")))
	}
	return strings.Join(words, " ")
}

// typedOptions is everything that mount(8) needs after -o for the overlay.
func (p *Plan) typedOptions() string {
	var lower []string
	for _, dir := range p.lowers() {
		lower = append(lower, "lowerdir+="+dir)
	}
	return p.mountOptions(lower...)
}

// mountOptions is the overlay's option string, with the lower layers spelled as
// they are given.
func (p *Plan) mountOptions(lower ...string) string {
	options := slices.Concat(p.Flags, p.Options, lower)
	if p.Private != nil {
		options = append(options, "upperdir="+p.upper(), "workdir="+p.work())
	}
	return strings.Join(options, ",")
}

// layerOptions are the mount options of a layer's image. An ext4 journal is never
// replayed: the device is read-only, and the plain mount would fail.
func layerOptions(fstype string) []string {
	if fstype == "ext4" {
		return []string{"ro", "nodev", "noload"}
	}
	return []string{"ro", "nodev"}
}

// deviceCommands leave the layer's device in the shell's variable device. They use the
// first one that is planned; where it cannot be had, the next one's take their place.
func (l Layer) deviceCommands() []string {
	d := l.Devices[0]
	read := "cat"
	if l.Size > 0 {
		read = fmt.Sprintf("head -c %d", l.Size)
	}
	check := "test \"$(" + read + " \"$device\" | sha256sum)\" = " + quote(strings.TrimPrefix(l.Digest, "sha256:")+"  -")
	if d.Kind == Pmem {
		return []string{"device=/dev/" + d.Name, "blockdev --setro \"$device\"", check}
	}
	first, _, _ := strings.Cut(d.Name, ":")
	return []string{
		"test -d /sys/devices/dcssblk/" + quote(first) + " || echo " + quote(d.Name) + " > /sys/devices/dcssblk/add",
		"device=/dev/$(basename /sys/devices/dcssblk/" + quote(first) + "/block/dcssblk*)",
		check,
	}
}

// Quote makes s one word for a POSIX shell.
func Quote(s string) string { return quote(s) }

// quote is Quote.
func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._+@:=,-", r)
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
