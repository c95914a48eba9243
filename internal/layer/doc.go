// Package layer builds a layer: one read-only image of a directory tree, erofs or
// ext4, named by its digest and laid out for execution in place; and it tells of any
// image whether it can be executed in place ([CheckXIP]).
//
// [Build] needs no external tool and no privilege beyond reading the tree. An erofs
// image has 4096-byte blocks, is not compressed, and is a multiple of 2 MiB
// long. Every regular file lies block-aligned and in one piece (layout
// FLAT_PLAIN), because that is the only layout for which every kernel with
// erofs DAX sets S_DAX: a tail packed into the inode never gets it, and
// chunk-based files got it only later (18bddc5b6703 "erofs: fix fsdax
// unavailability for chunk-based regular files", 2023). No
// incompatible feature bit is set, so that the image mounts wherever erofs does.
//
// Equal trees give equal bytes: names, file contents, modes, owners, mtimes,
// extended attributes, symbolic links, device numbers and which regular files
// are hard links of each other decide the image; inode numbers, directory order,
// the place of the tree and the time of the build do not. The file system UUID
// is derived from the content, so that a segment can be recognised by it.
//
// # Why not the writer of go-erofs
//
// go-erofs (v0.3.1) inlines small files, or writes chunk-based ones that point
// at an extra device; it gives each name of a hard-linked file an inode, and so a
// page cache, of its own; and it stores POSIX ACLs under a name the kernel does
// not know. To use it we would have to parse and rewrite all it wrote. Writing
// the few structures needed is less code: superblock, extended inodes, inline
// xattrs and directories (erofs.go, dirent.go). go-erofs is the independent
// reader in the tests, beside the kernel and fsck.erofs.
//
// # Why not mkfs.ext4 -d
//
// ext4 is for kernels or hypervisor documentation that know execution in place from
// ext2 and ext4 only. e2fsprogs 1.47.0 fills a new file system from a directory, but
// the image is not the tree: the root's mode, owner and attributes are lost, times
// have no nanoseconds and are wrong from 2038 on, there is a lost+found. And equal
// trees give different bytes: each inode's change time and the order of its
// attributes are those of the source. Mending that takes a reader and a writer of all
// the structures that are written here (ext4.go, ext4_xattr.go, ext4_writer.go).
// tar2ext4 of hcsshim has the same lost+found, an order of attributes that the kernel's
// lookup does not expect, and brings in a tracing framework. e2fsck and the
// kernel read the images in the tests. They have no journal, no checksums of metadata
// and no directory indices, and the read-only feature: nobody mounts them writable.
// Each file is one run of blocks. Names in a directory are searched from its start:
// where directories have tens of thousands of names, erofs is quicker.
//
// # How an erofs image is laid out
//
//	block 0         1024 zero bytes, superblock, zeros
//	block 1 ...     file data, each distinct content once; files of 2 MiB and
//	                more on 2 MiB boundaries where that wastes little, so that
//	                DAX can map them with huge pages; small files fill the gaps
//	...             whole directory blocks and long symbolic links
//	meta_blkaddr    inodes with xattrs, short directories and symbolic links
//	...             zeros up to the next 2 MiB
//
// The data come first so that each file is read exactly once: it is hashed while
// it is copied, and what turns out to be there already is taken back.
//
// # Limits
//
// The tree must not change while it is read; a file that does is reported with
// [ErrChanged]. Holes of sparse files become zeros. Sockets are refused. Of the
// system namespace only POSIX ACLs are kept (the rest are views that a file
// system driver offers, not stored data), and the notes that overlayfs keeps
// about its own upper directory (trusted.overlay.origin, impure, nlink, upper,
// uuid) are left out, as they name inodes of the machine they were made on;
// trusted.overlay.opaque, redirect and metacopy are kept. Without CAP_SYS_ADMIN
// the kernel hides trusted.* and the image has none: build as root.
//
// Do not use this package for writable, compressed or multi-device images:
// mkfs.erofs does those.
package layer
