// Package gateway calls external services, a file each, with the HTTP client of the kit.
package gateway
