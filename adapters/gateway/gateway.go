// Package gateway calls external services with the kit's HTTP client, one file per service.
package gateway
