#!/usr/bin/env bash
# Makes both services, starts them in docker-compose, places orders that billing accepts, refuses and takes back, and compares what billing
# is owed with what orders has confirmed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
compose="docker-compose"; docker compose version >/dev/null 2>&1 && compose="docker compose"
export COMPOSE_PROJECT_NAME=two-services TWO_SERVICES=${TWO_SERVICES:-$(mktemp -d)}
trap '$compose down -v >/dev/null 2>&1' EXIT
./make.sh "$TWO_SERVICES" >/dev/null
$compose up -d --build
for port in 18090 18091; do
  for _ in $(seq 120); do curl -sf "http://127.0.0.1:$port/readyz" | grep -q . && break; sleep 1; done
done
order() { # SKU, price: what became of it
  curl -s -H 'Prefer: wait=30' -H 'Content-Type: application/json' http://127.0.0.1:18090/v1/orders \
    -d "{\"lines\":[{\"sku\":\"$1\",\"quantity\":1,\"unit_price\":$2}],\"currency\":\"EUR\",\"payment_method\":\"pm_ok\"}" | grep -o '"status":"[a-z]*"'
}
expect() { [ "$1" = "$2" ] || { echo "got $1, want $2"; $compose logs --tail 50; exit 1; }; }
curl -s -H 'Content-Type: application/json' http://127.0.0.1:18090/v1/stock/MUG-01/receipts -d '{"quantity":1000}' >/dev/null
curl -s -H 'Content-Type: application/json' http://127.0.0.1:18090/v1/stock/HEAVY-99/receipts -d '{"quantity":1000}' >/dev/null
sleep 3
for _ in 1 2 3; do expect "$(order MUG-01 1000)" '"status":"confirmed"'; done
expect "$(order MUG-01 200000)" '"status":"cancelled"'   # billing does not trust that far
expect "$(order HEAVY-99 1000)" '"status":"cancelled"'   # the carrier refuses, and the invoice is taken back
owed=$($compose exec -T postgres-billing psql -U service -tAc "SELECT count(*) FILTER (WHERE type = 'invoice.issued') || ' issued, ' || count(*) FILTER (WHERE type = 'invoice.cancelled') || ' cancelled, ' || count(*) FILTER (WHERE type = 'invoice.refused') || ' refused' FROM events" | tr -d '\r')
expect "$owed" "4 issued, 1 cancelled, 1 refused"
echo "two services, one saga: 3 orders confirmed, 2 cancelled; invoices: $owed"
