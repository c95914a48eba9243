// Package report is what a host says of itself in the inventory: which level it runs of
// each component, and whether the last change to the wanted one failed and why
// (levelfsReport). Roll-outs go on, or do not, by it.
//
// The host writes the attribute into its own entry, and should be the only one who may.
// It is an ordinary attribute of levelfsCaller: operational ones are for what servers
// maintain themselves. No lookup asks for it.
//
// Nothing is written where nothing has changed, and the time in a report is that of the
// change: it does not say that the host lives. Whoever reads reports must not trust them
// further than the host: [Parse] lets nothing but short printable text through.
//
// When not to use it: to find out what is mounted on this machine. A report is what was
// known when it was written.
package report
