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
	SamePlace       Code = "LV180"
	Reserved        Code = "LV181"
	InTree          Code = "LV182"
)

// Kinds are all kinds of findings, by code.
func Kinds() []Kind {
	return []Kind{
		{NoComponent, "Assignment of an unknown component", Warning,
			"A caller or a profile assigns a level of a component that no source has. Nothing asks for it.",
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
			"The page ranges of two segments overlap, and a caller runs levels with both. A guest can load only one of them. Segments are placed in units of 1 MiB.",
			"Define one of them at another place (DEFSEG), and correct its levelfsRange. levelfs segment plan finds one."},
		{Overlap, "Overlapping segments", Warning,
			"The page ranges of two segments overlap. No caller is assigned levels with both now, but a switch from one to the other, or a look at one beside the other, loads both. levelfs segment plan --reuse makes such plans.",
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
		{SamePlace, "Components at one place", Critical,
			"The mount points of two components are the same, or one lies within the other. Nothing is ever mounted below a view.",
			"Give one of them another levelfsMountPoint."},
		{Reserved, "Reserved name", Critical,
			"A component is named by-user, which is where the users' trees are. It cannot be opened in the shared tree.",
			"Rename the component."},
		{InTree, "Mount point in the shared tree", Critical,
			"A component's own mount point lies in the shared tree, or the tree below it. automount serves the tree by another map.",
			"Give it a levelfsMountPoint elsewhere."},
	}
}
