// Package httpapi serves a service over HTTP: the middleware that every request passes, access as the OpenAPI specification declares it,
// strict JSON, problem details (RFC 9457), idempotency keys, Prefer: wait, server-sent events, and the operations API (sagas, dead letters,
// circuit breakers, the outbox, probes and documents).
//
// A service brings a Service: its own OpenAPI document and a function that mounts its routes. Server merges that document with
// operations.yaml, so that one document describes all routes and who may call them.
package httpapi
