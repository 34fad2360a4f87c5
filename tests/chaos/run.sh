#!/usr/bin/env bash
# The chaos suite on services that can be stopped: those of CHAOS_CTL, POSTGRES_DSN and KAFKA_BROKERS, or docker compose's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -z "${CHAOS_CTL:-}" ]; then
  compose="docker-compose"; docker compose version >/dev/null 2>&1 && compose="docker compose"
  export CHAOS_CTL="$compose -p millrace-chaos -f $PWD/tests/chaos/compose.yml"
  export POSTGRES_DSN='postgres://postgres@127.0.0.1:15432/postgres?sslmode=disable' KAFKA_BROKERS=127.0.0.1:19092
  $CHAOS_CTL up -d
  trap '$CHAOS_CTL down -v' EXIT
fi
go test -count=1 -v -timeout 60m ./tests/chaos
