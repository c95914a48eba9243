// Package lint looks for faults in an inventory: references to nothing, values that no
// lookup would accept, rules that contradict each other or never decide, levels that are
// assigned and refused, layers and segments that cannot be loaded.
//
// It is pure: it takes a [fleet.Fleet] and returns findings. What rules decide it does
// not work out itself; the resolver that answers the map is asked for every caller. It
// knows nothing of this machine's images, devices or mounts.
package lint
