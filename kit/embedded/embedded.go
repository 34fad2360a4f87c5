// Package embedded runs a real PostgreSQL and a Kafka broker in and beside this process, with their data in a directory, so that `go run .` needs
// nothing else. The build tag noembedded leaves both out of a binary, with the libraries that they need.
package embedded
