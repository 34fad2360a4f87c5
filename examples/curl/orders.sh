#!/usr/bin/env bash
# Orders over HTTP, with curl. Usage: examples/curl/orders.sh [URL]. A service must run there: go run .
set -euo pipefail
url=${1:-http://127.0.0.1:8080}

echo "# place an order, and wait up to ten seconds until it is decided"
curl -sf -H 'Content-Type: application/json' -H 'Prefer: wait=10' -H "Idempotency-Key: example-$$" "$url/v1/orders" \
  -d '{"lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}'

echo "# the same once more, with the same key: the same answer, and no second order"
curl -sf -H 'Content-Type: application/json' -H "Idempotency-Key: example-$$" "$url/v1/orders" -D - \
  -d '{"lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"currency":"EUR","payment_method":"pm_ok"}' | grep -iE '^(HTTP|location|idempotency)|order_id'

echo "# one that is declined: what was done for it is undone"
curl -sf -H 'Content-Type: application/json' -H 'Prefer: wait=10' "$url/v1/orders" \
  -d '{"lines":[{"sku":"MUG-01","quantity":1,"unit_price":1250}],"currency":"EUR","payment_method":"pm_declined"}'

echo "# the newest three, and the newest sagas"
curl -sf "$url/v1/orders?limit=3"
curl -sf "$url/v1/sagas?limit=1"

echo "# what is wrong is said by field"
curl -s -H 'Content-Type: application/json' "$url/v1/orders" -d '{"lines":[{"sku":"MUG-01","quantity":0,"unit_price":1}],"currency":"EUR","payment_method":"pm_ok"}'
