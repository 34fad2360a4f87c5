//go:build !noembedded

package embedded

import (
	"fmt"
	"syscall"
	"unsafe"
)

// Constants of the kernel that package syscall does not have.
const (
	prSetSecurebits       = 28
	noSetuidFixup         = 1 << 2
	prCapAmbient          = 47
	prCapAmbientRaise     = 2
	capDACReadSearch      = 2
	capSetPCap            = 8
	capabilityVersion3    = 0x20080522
	keptCapabilities      = uint32(1 << capDACReadSearch)
	capabilityDataEntries = 2
)

type capabilityHeader struct {
	version uint32
	pid     int32
}

type capabilityData struct{ effective, permitted, inheritable uint32 }

// asUser runs f with another identity on this thread, which the caller has locked and will not unlock. It uses raw system calls, because syscall.Setresuid
// would change the identity of every thread.
//
// If the kernel permits it, the thread keeps one capability: to pass through directories that are closed to others. The data directory of root often lies
// below such a directory (/root, mktemp -d).
func asUser(o owner, f func() error) error {
	// Without this bit, changing the user drops every capability, and access(2), which PostgreSQL calls, ignores capabilities.
	_, _, dropped := syscall.RawSyscall(syscall.SYS_PRCTL, prSetSecurebits, noSetuidFixup, 0)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("leave root's groups: %w", errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(o.gid), uintptr(o.gid), uintptr(o.gid)); errno != 0 {
		return fmt.Errorf("become an unprivileged group: %w", errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(o.uid), uintptr(o.uid), uintptr(o.uid)); errno != 0 {
		return fmt.Errorf("become an unprivileged user: %w", errno)
	}
	if dropped == 0 {
		if err := keepOnlyReadSearch(); err != nil {
			return err
		}
	}
	return f()
}

func keepOnlyReadSearch() error {
	header := capabilityHeader{version: capabilityVersion3}
	data := [capabilityDataEntries]capabilityData{{keptCapabilities, keptCapabilities, keptCapabilities}}
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0) //nolint:gosec // the kernel's interface
	if errno != 0 {
		return fmt.Errorf("drop root's capabilities: %w", errno)
	}
	_, _, errno = syscall.RawSyscall6(syscall.SYS_PRCTL, prCapAmbient, prCapAmbientRaise, capDACReadSearch, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("hand a capability to PostgreSQL: %w", errno)
	}
	return nil
}

// mayPass reports whether asUser will be able to keep its capability, which is so if this process has it.
func mayPass() bool {
	header := capabilityHeader{version: capabilityVersion3}
	var data [capabilityDataEntries]capabilityData
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0) //nolint:gosec // the kernel's interface
	return errno == 0 && data[0].permitted&(keptCapabilities|1<<capSetPCap) == keptCapabilities|1<<capSetPCap
}
