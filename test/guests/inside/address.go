package inside

import "unsafe"

// addressOf is the virtual address of mapped memory.
func addressOf(mapped []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&mapped[0]))) }
