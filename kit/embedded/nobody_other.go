//go:build !linux && !noembedded

package embedded

import "errors"

func asUser(owner, func() error) error {
	return errors.New("PostgreSQL does not run as root: start as another user, or set POSTGRES_DSN")
}

func mayPass() bool { return false }
