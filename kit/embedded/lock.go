package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Lock locks a data directory until release is called or the process ends. It creates the directory if it does not exist. Without the lock, a second
// instance on the same directory would stop the PostgreSQL of the first as a leftover. The error says that another instance holds the lock; Lock does not
// wait.
func Lock(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the user that runs PostgreSQL must get through
		return nil, fmt.Errorf("DATA_DIR: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's choice
	if err != nil {
		return nil, fmt.Errorf("DATA_DIR: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("DATA_DIR: an instance is running on %s: stop it, or set DATA_DIR to another directory", dir)
	}
	return file.Close, nil
}
