// Package ldapmap answers "which level of this component does this caller run,
// and of which layers is that level made?" from one or more software
// inventories.
//
// An inventory is a tree of LDAP entries with the object classes of
// packaging/schema. Where the entries come from is a [Source]: package
// ldapsource asks a directory server, package ldifsource reads a directory of
// LDIF files. They share the schema, so that everything above a Source is
// written once. This package itself imports no LDAP library: what it decides is
// plain data, and the mount helper can use its types without paying for one.
//
// A lookup costs at most two searches per source: the first asks for the host, the
// component and its levels, the second for the host's groups and profiles and for
// the layers. Only where profiles include others, or groups refer to profiles, each
// further level of them costs one more, layers that only these put above a level one
// more, and a component with more levels than a server returns at once three more.
//
// All text from an inventory is checked against a whitelist while it is decoded
// (see [Key] and the decode functions); what does not pass is an [InvalidError]
// that names the entry and the attribute. Nothing that leaves this package needs
// quoting in a path, a mount option or a map line.
//
// When not to use it: for anything but software levels. It is not a general
// LDAP client.
package ldapmap
