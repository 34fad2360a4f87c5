// Removeexample takes order fulfilment out: make remove-example. What is left is a service without aggregates, commands and sagas that
// builds, starts and passes its tests, for tools/scaffold to add one's own to. Git has what was there.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "remove-example:", err)
		os.Exit(1)
	}
}

// gone are the example's own files, with their tests, and folders, and this program.
var gone = []string{
	"domain/order", "domain/payment", "domain/shipment", "domain/money", "sagas/fulfilment", "adapters/gateway", "adapters/sandbox",
	"adapters/postgres/readmodel/orders.go", "adapters/postgres/readmodel/stock.go", "app/projection/orders.go", "app/projection/stock.go",
	"ports/httpapi/orders.go", "ports/httpapi/stock.go", "ports/httpapi/stream.go", "ports/httpapi/sandbox.go", "ports/httpapi/fuzz_test.go",
	"ports/httpapi/testdata", "ports/ui/orders.go", "ports/ui/sandbox.go", "ports/ui/templates/order.html", "ports/ui/templates/orders.html",
	"ports/ui/templates/sandbox.html", "ports/cli/demo.go", "ports/cli/chaos.go", "ports/cli/live.go", "service/orders.go", "service/demo.go",
	"service/sandbox.go", "tests/books", "tests/bench", "tests/debezium", "tests/chaos", "tests/limits", "tests/browser", "tests/tools",
	"tests/harness/orders.go", "tests/harness/books.go", "tests/harness/sandbox.go", "tests/harness/limits.go", "tests/limits", "examples", "docs/pages.md", "docs/performance.md",
	"docs/scale.md", "docs/pictures", "docs/order-fulfilment.mmd", "tools/node", "tools/removeexample",
}

// lists are folders of which only the list of what is in them stays.
var lists = map[string]string{
	"app/command": "command.go", "app/query": "query.go", "app/reaction": "reaction.go", "tests/component": "start_test.go",
}

//go:embed after/README.md
var readme []byte

//go:embed after/run
var check []byte

func run() error {
	if _, err := os.Stat("sagas/fulfilment"); err != nil {
		return fmt.Errorf("sagas/fulfilment %w", errNotThere)
	}
	// The tests of the event store go on with an aggregate that they know.
	if err := os.Rename("domain/inventory", "tests/harness/inventory"); err != nil {
		return err
	}
	for _, path := range gone {
		if err := errors.Join(os.RemoveAll(path), os.RemoveAll(strings.TrimSuffix(path, ".go")+"_test.go")); err != nil {
			return err
		}
	}
	for dir, list := range lists {
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			if f.Name() != list {
				if err := os.RemoveAll(filepath.Join(dir, f.Name())); err != nil {
					return err
				}
			}
		}
	}
	for _, step := range []func() error{inventory, code, tests, settings, schema, document, finish} {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Println("the example is gone; next: go run ./tools/scaffold aggregate …")
	return nil
}

// inventory has the tests find the aggregate where it is now.
func inventory() error {
	return filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // a file of the service
		if err == nil && strings.Contains(string(text), "/domain/inventory\"") {
			err = rewrite(path, func(s string) (string, error) {
				return strings.ReplaceAll(s, "/domain/inventory\"", "/tests/harness/inventory\""), nil
			})
		}
		return err
	})
}

func code() error {
	return errors.Join(
		cut("app/command/command.go", "Orders ", "Stock ", "Payments ", "Shipments ", "Provider ", "Carrier ", "Courier ", "const Couriers",
			"app.For(order", "app.For(inventory", "app.For(payment", "app.For(shipment", "app.Through("),
		cut("app/query/query.go", "Orders ", "Stock ", `app.Query("OrderByID"`, `app.Query("OrderHistory"`, `app.Query("ListOrders"`, `app.Query("StockBySKU"`),
		cut("app/reaction/reaction.go", "deliveries{"),
		cut("adapters/postgres/readmodel/readmodel.go", "{projection.Orders", "{projection.Stock"),
		cut("sagas/sagas.go", "saga.New(fulfilment.Definition)", "saga.New(fulfilment.V1)"),
		cut("service/parts.go", "order.Category: ", "inventory.Category: ", "inventory.Category: audit", "payment.Category: ", "shipment.Category: ", "Orders: ", "Stock: ", "Payments: ",
			"Shipments: ", "Provider: ", "Carrier: ", "Courier: ", "Orders: ", "Stock: ", "payment.Category: ", "shipment.Category: ", "command.Couriers: ",
			"messages.Protobuf(", "if state.Definition", "orders, err := ", "group := ", "for _, status := ", `"go run . demo"`, "fmt.Sprintf(`curl", "if s.postgres == nil", "return s.core.uow"),
		swap("service/parts.go", "return []ui.Group{group}, err", "return nil, nil"),
		rewrite("service/parts.go", func(s string) (string, error) {
			return strings.Replace(s, "func (s *Service) seed() error {\n", "func (s *Service) seed() error {\nreturn nil\n", 1), nil
		}),
		cut("service/api.go", "Cancel: ", "SagaOf: ", "if s.sandbox", "s.mountSandbox"),
		cut("service/ui.go", "Cancel: ", "SagaOf: ", "if s.sandbox"),
		cut("service/service.go", "sandbox ", "sandURL ", "s.startSandbox"),
		swap("service/service.go", ` && s.config.PaymentsURL != ""`, ""),
		cut("service/main.go", "if s.sandbox", "ServeOwn: ", "Sandbox: "),
		cut("service/config.go", "PaymentsURL ", "CarrierURL ", "CourierURL ", "Sandbox ", "PaymentsURL:", "CarrierURL:", "CourierURL:", "Sandbox:", "s.checkSandbox(c)",
			"func (s *settings) checkSandbox("),
		cut("ports/httpapi/httpapi.go", "Cancel ", "SagaOf ", "Sandbox ", "s.waiting"),
		cut("ports/ui/ui.go", "Cancel ", "SagaOf ", "Sandbox ", `{"orders"`, "if len(s.Sandbox)", `"/ui/orders": `, `"/ui/orders/{id}": `, `"/ui/sandbox": `),
		cut("ports/ui/sagas.go", `"/ui/orders": `, `"/ui/orders/{id}/cancel": `, "if len(s.Sandbox)"),
		cut("ports/cli/cli.go", "ServeOwn ", "Sandbox ", `"demo": `, `"sandbox": `, "func (a App) sandbox("),
		dropLines("ports/cli/cli.go", "  demo [--orders", "send orders of every outcome", "  sandbox [--addr"),
		swap("ports/cli/cli.go", ": orders that are fulfilled by a saga", ""),
		resources("ports/httpapi/openapi.yaml", "/v1/orders", "/v1/stock", "/v1/sandbox"),
	)
}

func tests() error {
	return errors.Join(
		cut("service/names_test.go", `"order.placed": `, `"order.confirmed": `, `"order.cancelled": `, `"inventory.received": `, `"inventory.reserved": `,
			`"inventory.rejected": `, `"inventory.released": `, `"inventory.committed": `, `"payment.authorised": `, `"payment.declined": `, `"payment.voided": `,
			`"payment.captured": `, `"payment.capture-refused": `, `"shipment.booked": `, `"shipment.refused": `, `"shipment.cancelled": `),
		cut("service/config_test.go", `"PAYMENTS_URL"`, `"CARRIER_URL"`, `"SANDBOX"`),
		cut("tests/component/start_test.go", `"HTTP_ADDR=0.0.0.0:8080|AUTH_MODE=none"`, `"CARRIER_URL=http`, `"PAYMENTS_URL=http`),
		swap("tests/component/start_test.go", "HTTP_ADDR=0.0.0.0:8080|SANDBOX=on", "HTTP_ADDR=0.0.0.0:8080"),
		cut("tests/component/start_test.go", `"demo --orders 0"`, `"demo --orders x"`, `"demo please"`, `"sandbox here"`),
		cut("tests/harness/harness.go", "sandbox "),
		cut("tests/harness/instance.go", "if w.sandbox"),
		swap("tests/harness/harness.go", `w.env["DATA_DIR"], w.env["TOPIC_PREFIX"], w.env["WAREHOUSE_TOPICS"] = dir, w.Prefix, w.Prefix+".warehouse"`, `w.env["DATA_DIR"], w.env["TOPIC_PREFIX"] = dir, w.Prefix`),
		cut("tests/harness/client.go", "placed "),
		swap("tests/harness/client.go", ", &atomic.Int64{}}", "}"),
		cut("tests/harness/client.go"),
	)
}

func settings() error {
	return errors.Join(
		dropLines(".env.example", "WAREHOUSE_TOPICS=", "PAYMENTS_URL=", "CARRIER_URL=", "COURIER_URL=", "SANDBOX="),
		dropLines("deploy/kubernetes/settings.example.env", "PAYMENTS_URL=", "CARRIER_URL=", "COURIER_URL="),
		dropLines("docker-compose.yml", "SANDBOX:", "PAYMENTS_URL:", "CARRIER_URL:", "COURIER_URL:", "sandbox"),
		dropParagraphs("Makefile", "demo:", "template-test:", "simulate:", "browser-test:", "screenshots:", "asyncapi:", "node:", "chaos:", "fuzz:", "bench:", "profile:", "bench-age:", "remove-example:"),
		phony("Makefile"),
	)
}

// schema takes the example's tables out. No database of this service is there yet.
func schema() error {
	return errors.Join(
		statements("migrations/00001_"+name()+".sql", "order_rows", "stock_rows"), statements("migrations/00002_lines.sql", "order_rows"),
	)
}

// document puts the documents of a service that has nothing of its own yet in the place of the example's.
func document() error {
	return errors.Join(
		os.WriteFile("README.md", []byte(strings.ReplaceAll(string(readme), "SERVICE", name())), 0o600),
		os.WriteFile(".ci/run", check, 0o700), //nolint:gosec // it is to be run
	)
}

// finish has what is generated follow.
func finish() error {
	for _, command := range []string{"go mod tidy", "go generate ./...", "go build ./...", "gofmt -l ."} {
		fmt.Println(command)
		args := strings.Fields(command)
		out, err := exec.CommandContext(context.Background(), args[0], args[1:]...).CombinedOutput() //nolint:gosec // the four above
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, out)
		}
	}
	write := exec.CommandContext(context.Background(), "go", "test", "-count=1", "-run", "TestDocumentsAreCurrent", "./service")
	write.Env = append(os.Environ(), "WRITE_DOCUMENTS=1")
	if out, err := write.CombinedOutput(); err != nil {
		return fmt.Errorf("write docs/asyncapi.yaml: %w\n%s", err, out)
	}
	return nil
}
