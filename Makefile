TOOL := go tool -modfile=tools/lint/lint.mod
# Empty in a service that imports the kit. A comment behind the value would make it a blank.
KIT := $(wildcard kit)
SHIP := go tool -modfile=tools/ship/ship.mod
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.DEFAULT_GOAL := help
.PHONY: help init remove-example run demo test race nightly long-test template-test simulate component-test browser-test screenshots asyncapi node chaos fuzz bench bench-quick profile bench-age lint fmt generate proto kubernetes dist image sbom vuln up down

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | column -t -s '	'

init: ## Make it your own: make init MODULE=github.com/acme/billing NAME=billing
	go run ./tools/init -module '$(MODULE)' -name '$(NAME)'

remove-example: ## Take order fulfilment out; what is left is yours to fill
	go run ./tools/removeexample

run: ## Start everything on the embedded default
	go run .

demo: ## A hundred orders of every outcome, and the check of the invariants
	go run . demo

test: ## All tests of the service, on the embedded default; on real services if POSTGRES_DSN and KAFKA_BROKERS are set
	go test ./...
	@[ -n "$$LONG_TESTS" ] || ! grep -qrl --include=*_test.go 'kittest.Long(' tests || echo "left out, because LONG_TESTS is not set: the tests of make long-test (go test -v names each)"

kit-test: ## All tests of the kit
	cd kit && go test ./...

race: ## All tests of both with the race detector, in the service too
	HARNESS_RACE=1 go test -race -timeout 60m ./...
	cd kit && go test -race -timeout 30m ./...

nightly: ## What takes long and seldom breaks: chaos, docker-compose, Debezium, guides, race detector in the service (NIGHTLY_ONLY)
	.ci/nightly

long-test: ## The component tests that take minutes too
	LONG_TESTS=on go test -count=1 -p 1 -timeout 30m ./tests/component ./tests/limits

template-test: ## The template itself: every guide followed, the example removed, two services made of it
	@[ -d tests/tools ] || { echo "these tests are the template's; make init has left them behind"; exit 1; }
	TEMPLATE_TESTS=on go test -timeout 40m -count=1 ./tests/tools ./examples/two-services

simulate: ## Two hundred thousand instances of each saga with faults, as a deterministic simulation
	SAGATEST_RUNS=66700 go test -count=1 -v -timeout 30m -run TestFaults ./sagas/fulfilment ./sagas/orderreturn

component-test: ## The component tests on docker-compose
	$(COMPOSE) up -d --build
	LONG_TESTS=on COMPONENT_URL=http://127.0.0.1:18080 go test -count=1 -timeout 20m ./tests/component
	$(COMPOSE) down -v

browser-test: node ## The pages in a real browser (Chromium), with axe-core; go test ./... leaves them out
	BROWSER_TESTS=on go test -count=1 -timeout 20m ./tests/browser

screenshots: ## The pictures in docs/
	BROWSER_TESTS=on PICTURES=$(CURDIR)/docs/pictures go test -count=1 -run TestPictures ./tests/browser

asyncapi: node ## Whether docs/asyncapi.yaml is valid, by AsyncAPI's own parser
	node tools/node/asyncapi.mjs docs/asyncapi.yaml

node: ## What those checks use that is not written in Go
	npm ci --prefix tools/node --no-audit --no-fund

chaos: ## Ten minutes of faults around three instances (CHAOS_SECONDS, CHAOS_SEED)
	CHAOS_SECONDS=$${CHAOS_SECONDS:-600} tests/chaos/run.sh

fuzz: ## Fuzz everything that reads from outside, a minute each (FUZZTIME)
	go test ./ports -run XXX -fuzz FuzzPlaceOrder -fuzztime $${FUZZTIME:-60s}
	cd kit && go test ./messaging -run XXX -fuzz FuzzHeaders -fuzztime $${FUZZTIME:-60s}
	cd kit && go test ./httpapi -run XXX -fuzz FuzzPreferredWait -fuzztime $${FUZZTIME:-60s}
	go test ./domain/order -run XXX -fuzz FuzzUpcasting -fuzztime $${FUZZTIME:-60s}
	go test ./sagas/fulfilment -run XXX -fuzz FuzzFaults -fuzztime $${FUZZTIME:-60s}
	go test ./sagas/orderreturn -run XXX -fuzz FuzzFaults -fuzztime $${FUZZTIME:-60s}

bench: ## Rates and latencies beside their baselines, three rounds: a table and bench.json
	go run ./tests/bench -svg docs/pictures/bench.svg

bench-quick: ## The same cases in three minutes, one round of each, for a change that is being worked on
	go run ./tests/bench -rounds 1 -messages 30000 -sagas 1300 -requests 4000 -backlog 80000 -events 80000 -rest 5s -json ''

profile: ## Where the time goes while sagas run: a CPU profile, and its top
	go run ./tests/bench -rounds 1 -only sagas -json '' -profile profile.out
	go tool pprof -top -cum profile.out | head -60

bench-age: ## Whether the outbox ages: ten million messages pass through it, then more while a transaction is open
	go run ./tests/bench -passed 10000000

lint: ## gofmt, go vet and golangci-lint
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run make fmt"; exit 1; }
	go vet ./...
	$(TOOL) golangci-lint run ./...
	$(if $(KIT),cd kit && go vet ./... && go tool -modfile=../tools/lint/lint.mod golangci-lint run --config ../.golangci.yml ./...)

fmt: ## Format the code
	gofmt -w .

generate: ## What is generated: the HTTP types from openapi.yaml and operations.yaml, the sagas' diagrams, asyncapi.yaml
	$(if $(KIT),cd kit && go generate ./...)
	go generate ./...
	WRITE_DOCUMENTS=1 go test -count=1 -run TestDocumentsAreCurrent ./service

proto: ## What is generated from .proto files; needs protoc
	go build -o .bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
	PATH=$(CURDIR)/.bin:$$PATH protoc --go_out=. --go_opt=paths=source_relative --go_opt=Madapters/warehousepb/warehouse.proto=adapters/warehousepb adapters/warehousepb/warehouse.proto

kubernetes: ## Whether deploy/kubernetes is what Kubernetes understands; by kubeconform too, where its schemas can be reached
	go test -modfile=tools/ship/ship.mod tools/ship/manifests/main.go tools/ship/manifests/main_test.go
	$(SHIP) kustomize build deploy/kubernetes > tools/ship/manifests.yaml
	go run -modfile=tools/ship/ship.mod tools/ship/manifests/main.go < tools/ship/manifests.yaml
	@if curl -sfm 5 -o /dev/null https://raw.githubusercontent.com; then $(SHIP) kubeconform -strict -summary tools/ship/manifests.yaml; fi

dist: ## The binary for Linux on amd64 and arm64, without the embedded PostgreSQL and Kafka, the same byte for byte wherever it is built, with its checksums
	for arch in amd64 arm64; do CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -tags noembedded -trimpath -buildvcs=false -ldflags="-s -w -buildid=" -o dist/millrace-linux-$$arch . || exit 1; done
	cd dist && sha256sum millrace-linux-* | tee checksums.txt

image: ## The image for amd64 and arm64: make image IMAGE=registry/name:tag (needs docker buildx)
	docker buildx build --platform linux/amd64,linux/arm64 --provenance=true --sbom=true -t $(IMAGE) --push .

sbom: ## What the binary is made of, as CycloneDX: dist/sbom.json
	mkdir -p dist && $(SHIP) cyclonedx-gomod app -json -licenses -main . -output dist/sbom.json .

vuln: ## Known vulnerabilities in what we use
	$(TOOL) govulncheck ./...
	$(if $(KIT),cd kit && go tool -modfile=../tools/lint/lint.mod govulncheck ./...)

up: ## PostgreSQL, Kafka and one instance in docker-compose
	$(COMPOSE) up -d --build

down: ## Stop them and remove their data
	$(COMPOSE) down -v
