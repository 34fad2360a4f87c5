// Package migrations holds this service's own tables, version by version. The kit's tables have migrations of their own, in the kit.
package migrations

import "embed"

// Files are the migrations, named 00001_what.sql, in goose's format.
//
//go:embed *.sql
var Files embed.FS
