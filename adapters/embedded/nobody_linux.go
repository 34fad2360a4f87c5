package embedded

import (
	"fmt"
	"syscall"
)

// asNobody runs f on this thread, which the caller has locked and will not unlock, with another identity. The raw calls are
// the point: syscall.Setresuid would change every thread.
func asNobody(f func() error) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, nobody, nobody, nobody); errno != 0 {
		return fmt.Errorf("become an unprivileged group: %w", errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
		return fmt.Errorf("become an unprivileged user: %w", errno)
	}
	return f()
}
