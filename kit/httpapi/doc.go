// Package httpapi serves a service over HTTP: the middleware of every request, access control as the OpenAPI specification declares it, strict JSON,
// problem details (RFC 9457), idempotency keys, Prefer: wait, server-sent events, and the operations API (sagas, dead letters, circuit breakers, the
// outbox, probes and documents).
//
// A service provides a Service: its own OpenAPI document and a function that adds its routes. Server merges that document with operations.yaml, so
// that one document describes all routes and who may call them.
package httpapi
