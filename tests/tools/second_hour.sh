#!/usr/bin/env bash
# From a clone to a renamed service with an aggregate and a saga of its own whose tests pass: at most fifteen commands. What a person types into
# files comes from testdata/second-hour.
set -euo pipefail
template=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
began=$SECONDS commands=0
run() {
  commands=$((commands + 1))
  printf '%2d  %s\n' "$commands" "$*"
  "$@" >"$work/output" 2>&1 || { cat "$work/output"; exit 1; }
}
cd "$work"
run git clone -q "$template" billing
cd billing
run make init MODULE=github.com/acme/billing NAME=billing
run go run ./tools/scaffold aggregate invoice
for event in Issued Paid Reminded Excused; do run go run ./tools/scaffold event invoice $event; done
for command in IssueInvoice RemindInvoice ExcuseInvoice; do run go run ./tools/scaffold command invoice $command; done
run go run ./tools/scaffold saga dunning --on invoice.Issued --steps "send reminder"
cp -r "$template/tests/tools/testdata/second-hour/." . # what a person types
sed -i.bak 's|^\(\tcase Issued:\)$|\1\n\t\ti.issued = true|; s|^\(\tcase Paid:\)$|\1\n\t\ti.paid = true|; s|^\(\tcase Reminded:\)$|\1\n\t\ti.reminded = true|; s|^\(\tcase Excused:\)$|\1\n\t\ti.reminded = false|' domain/invoice/events.go
sed -i.bak 's|is to be described here|is what happened to it|' domain/invoice/events.go && rm domain/invoice/events.go.bak
run make generate
run make lint
run go test ${SECOND_HOUR_TESTS:-./...} # all of them, unless SECOND_HOUR_TESTS names packages
echo "    what the scaffold writes passes lint as it is"
git add -A
for made in "query InvoiceByID" "projection invoice invoices" "consumer shipping --from carrier.parcels --on parcel.left" "saga closing --on invoice.Paid --steps close,tell,archive --pivot tell" "gateway cards" \
  "command invoice ChargeInvoice --gateway cards --decision Charge" "command invoice RefundInvoice --gateway cards --compensates ChargeInvoice" \
  "projection invoice open --fields customer_id,due:time" "query OpenOfCustomer --projection open --by customer_id" "query OpenInvoice --projection open --by invoice_id" "page invoices" \
  "setting GRACE --kind duration" "route POST /v1/invoices/{id} IssueInvoice" "route GET /v1/invoices/{id} InvoiceByID"; do
  go run ./tools/scaffold $made >/dev/null
done
make generate lint >"$work/output" 2>&1 || { cat "$work/output"; exit 1; }
git checkout -q . && git clean -qfd
echo "a service of one's own, with an aggregate and a saga: $commands commands, $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s"
[ "$commands" -le 15 ]
