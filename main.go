// Millrace is an event-driven service: orders that are fulfilled by a saga over PostgreSQL and Kafka. It is made to be
// cloned and to become another service; README.md says how.
package main

import (
	"os"

	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/service"
)

func main() { os.Exit(runner.Main(service.New())) }
