// Package embedded runs a real PostgreSQL as a child process and a Kafka broker in this process, with their data in a directory, so that `go run .` needs
// no other services. The build tag noembedded leaves both, and the libraries that they need, out of a binary.
package embedded
