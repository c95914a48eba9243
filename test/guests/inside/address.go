package inside

import (
	"sync/atomic"
	"unsafe"
)

// addressOf is the virtual address of mapped memory.
func addressOf(mapped []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&mapped[0]))) }

// load reads memory at the start of a page, whatever the compiler thinks of it.
func load(page *byte) { atomic.LoadUint32((*uint32)(unsafe.Pointer(page))) }
