#!/usr/bin/env bash
# The service with Debezium in its relay's place, on the PostgreSQL and the Kafka that POSTGRES_DSN and KAFKA_BROKERS name. Needs java and
# maven, Kafka's jars (Connect is among them) in KAFKA_LIBS, and wal_level = logical, which RESTART_POSTGRES makes so if it is set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export DEBEZIUM_PLUGINS=${DEBEZIUM_PLUGINS:-${TMPDIR:-/tmp}/debezium-3.6.1}
if [ ! -e "$DEBEZIUM_PLUGINS/.complete" ]; then
  mvn -q -B -f tests/debezium/pom.xml dependency:copy-dependencies -DoutputDirectory="$DEBEZIUM_PLUGINS/debezium" -DincludeScope=runtime
  rm -f "$DEBEZIUM_PLUGINS"/debezium/connect-api-*.jar "$DEBEZIUM_PLUGINS"/debezium/kafka-clients-*.jar # Connect's own
  touch "$DEBEZIUM_PLUGINS/.complete"
fi
psql=$(command -v psql || ls /usr/lib/postgresql/*/bin/psql | tail -1)
if [ "$("$psql" "$POSTGRES_DSN" -tAc 'SHOW wal_level')" != logical ] && [ -n "${RESTART_POSTGRES:-}" ]; then
  "$psql" "$POSTGRES_DSN" -qc 'ALTER SYSTEM SET wal_level = logical'
  bash -c "$RESTART_POSTGRES"
fi
LONG_TESTS=on go test -count=1 -v -run TestDebezium ./tests/component | tee "${TMPDIR:-/tmp}/debezium.log"
! grep -q -- '--- SKIP' "${TMPDIR:-/tmp}/debezium.log"
