// Package embedded runs a real PostgreSQL beside this process and a Kafka broker in it, with their data in a directory, so that `go run .`
// needs nothing else. The build tag noembedded leaves both out of a binary, with the libraries that they need.
package embedded
