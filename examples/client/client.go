// Package client is a client of the service in Go, generated from openapi.yaml. Copy it, or generate one like it from
// http://…/openapi.yaml of a service that runs.
package client

//go:generate go tool -modfile=../../tools/lint/lint.mod oapi-codegen -config oapi-codegen.yaml ../../ports/httpapi/openapi.yaml
