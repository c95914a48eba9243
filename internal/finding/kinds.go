package finding

// Codes of findings in an inventory.
const (
	NoComponent     Code = "LV101"
	NoLevel         Code = "LV102"
	NoProfile       Code = "LV103"
	NoLayer         Code = "LV104"
	NoSuccessor     Code = "LV105"
	Orphan          Code = "LV106"
	NoMember        Code = "LV107"
	Invalid         Code = "LV110"
	Duplicate       Code = "LV111"
	SameButCase     Code = "LV112"
	TwoCallers      Code = "LV113"
	UnknownName     Code = "LV114"
	Ambiguous       Code = "LV120"
	Loop            Code = "LV121"
	TooDeep         Code = "LV122"
	Retired         Code = "LV130"
	Expired         Code = "LV131"
	NotYetValid     Code = "LV132"
	Unreleased      Code = "LV133"
	NoImage         Code = "LV140"
	NoDigest        Code = "LV141"
	SameDigest      Code = "LV142"
	SegmentContent  Code = "LV150"
	OverlapTogether Code = "LV151"
	Overlap         Code = "LV152"
	RangeOfNothing  Code = "LV153"
	RangeTooSmall   Code = "LV154"
	NotAligned      Code = "LV155"
	NotAdjoining    Code = "LV156"
	BrokenSeal      Code = "LV160"
	NoSeal          Code = "LV161"
	SpeaksForNobody Code = "LV170"
	UnusedProfile   Code = "LV171"
	NeverDecides    Code = "LV172"
	NoLayerAbove    Code = "LV173"
	WrongKind       Code = "LV174"
	KindInLevel     Code = "LV175"
	SameOrder       Code = "LV176"
	UnusedLayer     Code = "LV177"
	SamePlace       Code = "LV180"
	Reserved        Code = "LV181"
	InTree          Code = "LV182"
	RolloutOfNone   Code = "LV183"
	RolloutHalf     Code = "LV184"
)

// Codes of findings on a machine.
const (
	OtherLevel      Code = "LV201"
	NoMoreLevel     Code = "LV202"
	Stranger        Code = "LV203"
	UnsafeOptions   Code = "LV204"
	ForeignUpper    Code = "LV205"
	ReadOnlyPrivate Code = "LV206"
	StackedViews    Code = "LV207"
	MountInView     Code = "LV208"
	MissingImage    Code = "LV210"
	OtherImage      Code = "LV211"
	NoXIP           Code = "LV212"
	XIPOff          Code = "LV213"
	OtherList       Code = "LV214"
	UnusedSegment   Code = "LV220"
	PrivateOfNone   Code = "LV230"
	PrivateOfNobody Code = "LV231"
	Unfinished      Code = "LV232"
	StalePrivate    Code = "LV233"
	NoWrites        Code = "LV234"
	ServersDown     Code = "LV240"
	OldAnswers      Code = "LV241"
	ClockAhead      Code = "LV242"
	OpenConfig      Code = "LV250"
	OpenPrivate     Code = "LV251"
	OpenCache       Code = "LV252"
	OpenSecret      Code = "LV253"
	OpenHook        Code = "LV254"
	NoMapProgram    Code = "LV260"
	NotIncluded     Code = "LV261"
	NoHelper        Code = "LV262"
	NotServed       Code = "LV263"
	HungMap         Code = "LV264"
)

// Kinds are all kinds of findings, by code.
func Kinds() []Kind {
	return []Kind{
		{NoComponent, "Assignment of an unknown component", Warning,
			"A caller or a profile assigns a level of a component that no source has, or puts a layer above it. Nothing asks for it.",
			"Correct the name, add the component, or delete the value."},
		{NoLevel, "Assignment of an unknown level", Critical,
			"An assignment or a component's default names a level that no source has. Whoever it decides for cannot open the component.",
			"Correct the name, or add the level."},
		{NoProfile, "Reference to an unknown profile", Warning,
			"A caller or a profile refers to a profile that no source has. The reference has no effect.",
			"Correct the name, add the profile, or delete the value."},
		{NoLayer, "Level of an unknown layer", Critical,
			"A level is made of a layer that no source has. It cannot be mounted.",
			"Add the layer's entry, which levelfs layer build prints, or correct the name."},
		{NoSuccessor, "Unknown successor", Warning,
			"A level names a successor that no source has. Who is refused the level is sent to it.",
			"Correct the name, add the level, or delete the value."},
		{Orphan, "Level without its component", Warning,
			"A level's name begins with the name of a component that no source has. Nothing can ask for it.",
			"Add the component, or delete the level."},
		{NoMember, "Member that is not there", Warning,
			"A group with assignments has a member that would be among the hosts or users, and there is no such entry there: it was removed or renamed, or is something for which the group's assignments do not hold, such as a group.",
			"Delete the member, or correct its DN. levelfs does not look for the members of groups within groups."},
		{Invalid, "Invalid value", Critical,
			"A value does not have the form that it must have. An access that meets it fails.",
			"Correct the value. The finding says what is wanted."},
		{Duplicate, "Two entries of one name", Critical,
			"Two components, levels, layers or profiles of one source have the same name. Nothing says which is meant: accesses to a component, level or layer fail, and of two profiles any one is taken.",
			"Rename one of them, or delete it."},
		{SameButCase, "Names that differ by case only", Warning,
			"Two components, levels or layers of one source differ by the case of their letters only. Directory servers take their names for the same, levelfs and file systems do not.",
			"Rename one of them."},
		{TwoCallers, "Two entries of one host or user", Warning,
			"Two entries of one source are the same host's or the same user's, and one of them has assignments. Both speak for it.",
			"Delete one of them, or give the assignments to one only."},
		{UnknownName, "Name that the schema does not have", Critical,
			"An attribute or an object class begins as those of levelfs do, and there is none of that name, or it has an option (\"levelfsAssignment;x\"). What it was to say does not count: a host may run another level than was meant. It can be in a file only, since directory servers refuse it.",
			"Correct the name."},
		{Ambiguous, "Two answers at one rank", Critical,
			"For some callers two rules of the same rank name different levels. They cannot open the component.",
			"Delete one of the two values, or assign a level on a more specific entry."},
		{Loop, "Profiles that include each other", Critical,
			"A profile includes itself, directly or by way of others. Callers who refer to it get no level of anything.",
			"Delete one of the references."},
		{TooDeep, "Profiles or netgroups that are nested too deep", Critical,
			"Profiles or netgroups include each other deeper than a lookup follows them. The callers get no level of anything.",
			"Refer to the inner ones directly."},
		{Retired, "Retired level in use", Critical,
			"Callers are assigned a level that is retired. It is refused at the next mount.",
			"Assign its successor or another level."},
		{Expired, "Expired level in use", Critical,
			"Callers are assigned a level whose time is over (levelfsNotAfter). It is refused at the next mount.",
			"Assign its successor or another level, or set another levelfsNotAfter."},
		{NotYetValid, "Level in use before its time", Critical,
			"Callers are assigned a level whose time has not come (levelfsNotBefore). It is refused until then.",
			"Assign another level until then, or set another levelfsNotBefore."},
		{Unreleased, "Unreleased level given to everybody", Critical,
			"A level in state draft or test is named by a group's own assignment or by a default. It is refused: these reach callers who did not ask for it.",
			"Release the level, or assign it by the callers' own entries or a profile."},
		{NoImage, "Layer that lies nowhere", Critical,
			"A layer has neither an image nor a segment. No level that is made of it can be mounted.",
			"Add a levelfsImage or a levelfsSegment."},
		{NoDigest, "Layer without a digest", Warning,
			"A level that is released is made of a plain directory. Nothing tells if its content changes.",
			"Build an image of the directory with levelfs layer build."},
		{SameDigest, "Two layers of one digest", Warning,
			"Two layers are the same image under two names. Each is loaded by itself where it could be shared.",
			"Refer to one of them in all levels, and delete the other."},
		{SegmentContent, "Segment of two contents", Critical,
			"Two layers with different digests name the same segment. CP knows segments by name: one of the two is not what is in it.",
			"Give each layer a segment name of its own."},
		{OverlapTogether, "Overlapping segments that are loaded together", Critical,
			"The page ranges of two segments overlap, and a caller loads both: with levels that it runs, or with layers above them. A guest can load only one of them. Segments are placed in units of 1 MiB.",
			"Define one of them at another place (DEFSEG), and correct its levelfsRange. levelfs segment plan finds one."},
		{Overlap, "Overlapping segments", Warning,
			"The page ranges of two segments overlap. No caller loads both now, with levels or with layers above them, but a switch from one to the other, or a look at one beside the other, loads both. levelfs segment plan --reuse makes such plans.",
			"Define one of them at another place (DEFSEG), and correct its levelfsRange. levelfs segment plan finds one."},
		{RangeOfNothing, "Page range of no segment", Warning,
			"A layer has a page range for a segment that is not one of its segments.",
			"Correct the name in levelfsRange or in levelfsSegment."},
		{RangeTooSmall, "Segment smaller than its layer", Critical,
			"The page ranges of a layer's segment have less room than the layer's image. The image cannot be in it.",
			"Define the segment anew with more pages (DEFSEG), and correct levelfsRange and levelfsSize."},
		{NotAligned, "Segment without DAX", Warning,
			"A segment does not begin or end at a multiple of 2 MiB. Linux 6.18 and later do not execute in place from it (DAX); it is read like a disk.",
			"Define it at a multiple of 200 (hexadecimal) pages, and as long as one."},
		{NotAdjoining, "Segments that do not adjoin", Critical,
			"Segments that are to be loaded as one have gaps between their page ranges. The kernel refuses them.",
			"Define them one behind the other (DEFSEG), and correct levelfsRange."},
		{BrokenSeal, "Level that was changed after its release", Critical,
			"The layers of a level are not those that it was sealed with. It is refused: a level name means the same content for ever.",
			"Bring the layers back that were sealed, and publish what is new as another level."},
		{NoSeal, "Released level without a seal", Warning,
			"A level is released, and has no levelfsSeal. Nothing tells if its layers are changed.",
			"Seal it."},
		{SpeaksForNobody, "Group that speaks for nobody", Warning,
			"A group has assignments or profiles, and no host or user of the inventory is in it.",
			"Add members, or delete the assignments."},
		{UnusedProfile, "Profile that nobody refers to", Warning,
			"No caller and no other profile refers to a profile. What it assigns has no effect.",
			"Refer to it, or delete it."},
		{NeverDecides, "Assignment that never decides", Warning,
			"For every caller for whom an assignment speaks, another rule goes before it: a more specific one, one of an earlier source, or a mandatory one.",
			"Delete it, or the rule that goes before it."},
		{NoLayerAbove, "Customisation by an unknown layer", Critical,
			"A caller, a profile or a component puts a layer above levels that no source has. Whoever it is for cannot open the component.",
			"Correct the name, delete the value, or add the layer: levelfs layer publish."},
		{WrongKind, "Customisation of another kind", Critical,
			"A layer that is put above levels is not of the kind that the entry takes: a component takes site layers, a host, a user or a group its own, and a profile site layers and those of the kind of who refers to it. The callers cannot open the component.",
			"Refer to a layer of the kind, or refer to this one on an entry that takes it. A layer's kind (levelfsKind) stays."},
		{KindInLevel, "Customisation layer in a level", Critical,
			"A level is made of a layer of the site's, of a group, a host or a user. It is refused: a level is the same for everybody.",
			"Publish the level with the vendor's layers, and put the other one above it with levelfs customize."},
		{SameOrder, "Two customisations of one number", Critical,
			"For some callers two layers above one component have the same number at the same rank. Nothing says which is above the other, and they cannot open the component.",
			"Give one of the two another number: levelfs customize CALLER COMPONENT=LAYER --order NN."},
		{UnusedLayer, "Customisation layer that nobody uses", Warning,
			"A layer of the site's, of a group, a host or a user is put above levels by no entry.",
			"Refer to it with levelfs customize, or delete it."},
		{SamePlace, "Components at one place", Critical,
			"The mount points of two components are the same, or one lies within the other. Nothing is ever mounted below a view.",
			"Give one of them another levelfsMountPoint."},
		{Reserved, "Reserved name", Critical,
			"A component is named by-user, which is where the users' trees are. It cannot be opened in the shared tree.",
			"Rename the component."},
		{InTree, "Mount point in the shared tree", Critical,
			"A component's own mount point lies in the shared tree, or the tree below it. automount serves the tree by another map.",
			"Give it a levelfsMountPoint elsewhere."},
		{RolloutOfNone, "Roll-out of what is not there", Warning,
			"A roll-out that is not over is of a level that no source has or that is retired, or one of its rings is a profile that no source has. It cannot go on.",
			"Add what is missing, or end it with levelfs rollout abort."},
		{RolloutHalf, "Roll-out that its rings do not agree with", Warning,
			"A ring of a roll-out does not assign what the roll-out says: a verb was interrupted, or somebody has changed the profile besides it.",
			"Repeat the verb that was interrupted: levelfs rollout promote, or abort, completes it. Otherwise assign the level again, or abort."},
		{OtherLevel, "Another level is wanted than is mounted", Warning,
			"A view shows another level than the inventory gives its host or user now. It changes when the view is next mounted; automount does not unmount what is in use.",
			"levelfs switch COMPONENT, or end the processes that the finding names and let automount unmount it."},
		{NoMoreLevel, "No level for what is mounted or assigned", Critical,
			"A component is mounted, or is assigned to this host, and the inventory gives no level of it: it is unknown, retired, expired, contradictory or was changed after its release. The next access fails.",
			"Correct the inventory. levelfs plan COMPONENT shows every rule, levelfs lint all faults."},
		{Stranger, "Something else in the tree", Warning,
			"Something that is neither automount's nor a view is mounted in the shared tree.",
			"Unmount it, and mount it elsewhere."},
		{UnsafeOptions, "View with other options", Critical,
			"A view has not the one set of overlayfs's options under which a new level may come under an old private layer, or devices work in it: it was mounted or remounted by hand, or by other software.",
			"Unmount it; it is mounted as it should be at the next access. A private layer that was used so may have to be moved away."},
		{ForeignUpper, "View with a private layer that is not levelfs's", Critical,
			"A view writes into a directory outside of levelfs's private layers, where nothing keeps two views from using it at once.",
			"Unmount it, and move what was written to where it belongs."},
		{ReadOnlyPrivate, "View that lost its private layer", Critical,
			"A view has a private layer, and its file system is read-only: a switch was interrupted, somebody remounted it, or the disk of the private layer has errors.",
			"Look into the kernel's log for errors of the disk. levelfs switch COMPONENT puts right what a switch has left; by hand, mount -o remount,rw VIEW."},
		{StackedViews, "Views on top of each other", Critical,
			"Two views are mounted at one mount point: a switch was interrupted. Whoever opens it now sees the upper one, and one umount does not free it.",
			"levelfs switch COMPONENT puts it right. Otherwise unmount the upper one: umount VIEW."},
		{MountInView, "Mount below a view", Critical,
			"Something is mounted below a view. The view cannot be unmounted, and is never upgraded.",
			"Unmount it."},
		{MissingImage, "Level that cannot be mounted here", Critical,
			"A level that this machine or a user of it is to run has a layer that is not on this machine. It cannot be mounted.",
			"Copy the image to one of the directories in levelfs.toml (images)."},
		{OtherImage, "Image that is not its layer", Critical,
			"An image file does not have the size, the file system or the bytes that the inventory says: it was cut short, changed or exchanged. It is not mounted any more; what is mounted of it may show errors.",
			"Copy the image again, under a new name and then by rename: never write into an image that is mounted."},
		{NoXIP, "Required execution in place is not there", Critical,
			"A layer is to be executed in place, and is not. Its view cannot be mounted again.",
			"The finding says why. levelfs layer check looks into an image, levelfs doctor at the kernel."},
		{XIPOff, "No execution in place", Warning,
			"A layer could be executed in place from shared memory, and its pages are copied into this machine's memory instead.",
			"The finding says why. A view that was mounted before the memory was there has to be mounted anew."},
		{OtherList, "List of files that is not its layer's", Warning,
			"The list of a layer's files beside its image (IMAGE.mtree) was cut short, changed or exchanged. Mounts do not need it. What a level changes under private files is found out by the image then, and not at all once that is gone.",
			"Copy the list again, or remove it."},
		{UnusedSegment, "Segment that nothing uses", Warning,
			"levelfs attached a segment, and no view has a layer in it. It takes address space that another may need.",
			"levelfs gc detaches what nothing uses."},
		{PrivateOfNone, "Private layer of an unknown component", Warning,
			"A private layer belongs to a component that the inventory does not have. Nothing shows what is in it.",
			"Move it away when nobody misses it, or give the component back. levelfs never deletes it by itself."},
		{PrivateOfNobody, "Private layer of an unknown user", Warning,
			"A private layer belongs to a user who has no account on this machine. The uid may be given to somebody else.",
			"Move it away when nobody misses it. levelfs never deletes it by itself."},
		{Unfinished, "Unfinished work", Warning,
			"A mount was interrupted while it made or changed a private layer. The next mount goes on where it ended; nothing is lost.",
			"Mount the view once, or delete the file or directory named."},
		{StalePrivate, "Private files that a level has overtaken", Warning,
			"A private file hides a shared one that has changed since it was made, or come, or gone: what the level brings is not seen. Under a view that is not mounted, it is the level that the next mount gives. Where the lists of the levels' files are not here, it is not found: levelfs check --deep makes them, and so does levelfs diff.",
			"levelfs diff shows them. levelfs adopt settles one: the private file, the shared one, or both merged; levelfs reset takes it out of the way."},
		{NoWrites, "Private layers that cannot be written", Critical,
			"Private layers lie on a file system that is read-only: no view with one of them can be mounted, and what is mounted cannot be written.",
			"The kernel makes a file system read-only after an error: its log says why. Check the file system, and remount it."},
		{ServersDown, "No inventory server answers", Warning,
			"A map found no inventory server that answers. Mounts get the last known levels, for as long as keep in levelfs.toml says.",
			"See that the server runs and answers. The note goes with the next answer."},
		{OldAnswers, "Last known levels run out", Critical,
			"No inventory server answers, and the last answer for a mounted component is so old that it soon does not stand in for the server any more. Then the component cannot be mounted.",
			"Get a server to answer, or set a longer keep in levelfs.toml meanwhile."},
		{ClockAhead, "Clock behind a server's", Warning,
			"An inventory server has written something later than this machine's clock says that it is: the clock here is behind, or the server's is ahead. Validity windows of levels, certificates and the age of cached answers are judged by this clock. A server whose clock is behind cannot be found out so.",
			"Compare both with a third: chronyc tracking, here and there."},
		{OpenConfig, "Configuration that others can change", Critical,
			"levelfs.toml can be written by others than root, who can so choose what root mounts.",
			"chown root FILE && chmod go-w FILE."},
		{OpenPrivate, "Private layers that others can reach", Critical,
			"The directory of the private layers is open to others than root. What lies below is protected by its own rights only, and set-user-ID files of old levels by none.",
			"chown root DIRECTORY && chmod 700 DIRECTORY."},
		{OpenCache, "Cache that others can reach", Critical,
			"The cache is open to others than root. Who can write there chooses what is mounted when no server answers.",
			"chown root DIRECTORY && chmod 700 DIRECTORY."},
		{OpenSecret, "Secret that others can read", Critical,
			"A password or a key of an inventory source is open to others than root. levelfs refuses to use it.",
			"chown root FILE && chmod 600 FILE, and change the secret."},
		{OpenHook, "Hook that is refused", Critical,
			"A program in /etc/levelfs/hooks.d, or a directory on the way to it, can be written by others than root, or is not a plain file. While it is so, what it is for is refused: mounts, or changes of level. Views are unmounted without hooks.",
			"Give it to root alone, or remove it: the finding says what to type."},
		{NoMapProgram, "Map program that cannot be run", Critical,
			"The master map names a program that is not there or not executable. automount does not serve the tree.",
			"Install it, or correct the path in levelfs.autofs."},
		{NotIncluded, "Master map that is not read", Critical,
			"/etc/auto.master does not include /etc/auto.master.d, where levelfs's map is.",
			"Add the line +dir:/etc/auto.master.d to /etc/auto.master, and reload automount."},
		{NoHelper, "No mount helper", Critical,
			"mount.levelfs is not where mount(8) looks for it. No view can be mounted.",
			"Install it as /sbin/mount.levelfs."},
		{NotServed, "Tree that is not served", Critical,
			"levelfs's master map has the shared tree, and automount has not mounted it: it does not run, or has not read the map.",
			"systemctl restart autofs, and see its log."},
		{HungMap, "Hung child of automount", Critical,
			"automount started a process for a map program that never became it: autofs up to 5.1.9 can hang between fork and exec. Whoever waits for the component waits for ever.",
			"Kill the process named; the access fails then and can be tried again. Upgrade autofs."},
	}
}
