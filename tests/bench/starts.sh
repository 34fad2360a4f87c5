#!/usr/bin/env bash
# How long from `go run .` to ready: first with empty caches of modules, builds and PostgreSQL, then on what that left.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d); trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export GOMODCACHE=$work/mod GOCACHE=$work/build TMPDIR=$work/tmp XDG_CACHE_HOME=$work/cache DATA_DIR=$work/data HTTP_ADDR=127.0.0.1:18999 LOG_LEVEL=error
unset POSTGRES_DSN KAFKA_BROKERS
mkdir -p "$TMPDIR"
for start in "first start, downloads and build included" "second start"; do
  began=$(date +%s%N)
  setsid go run . >"$work/out" 2>&1 & group=$!
  until curl -sf "http://$HTTP_ADDR/readyz" 2>/dev/null | grep -q 'worker: ok'; do
    kill -0 $group 2>/dev/null || { cat "$work/out"; exit 1; }
    sleep 0.05
  done
  printf '%-45s %5.1f s\n' "$start" "$(awk "BEGIN { print ($(date +%s%N) - $began) / 1e9 }")"
  kill -TERM -- -$group; wait $group 2>/dev/null || true
  while curl -s "http://$HTTP_ADDR/healthz" >/dev/null || pgrep -f "$DATA_DIR" >/dev/null; do sleep 0.1; done
done
