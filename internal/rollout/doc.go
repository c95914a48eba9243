// Package rollout says how a roll-out goes: which hosts each ring gives the level, what
// these report of it, and whether it may go on.
//
// Who is in a ring is asked of the resolver, with the level assigned in memory by every
// ring's profile: the answer is what the map would give. A host whose level is decided by
// something else is in the ring as well, and no reason to wait.
//
// It changes nothing; package edit does.
package rollout
