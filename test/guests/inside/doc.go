// Package inside is for the programs that run inside a guest: the first process of
// an initramfs, which makes the system as far as its checks need one, and proofs of
// where the pages of a file are.
package inside
