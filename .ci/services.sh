# Sourced by run and nightly: a real PostgreSQL and Kafka, by ../shared where it is there, by docker-compose in a clone elsewhere.
# services_up exports POSTGRES_DSN, KAFKA_BROKERS, KAFKA_STOP, KAFKA_START and CHAOS_CTL; services_down stops them and removes their data.
shared=$(cd .. && pwd)/shared
if [ -x "$shared/services/services" ]; then
  SERVICES_DIR=$(mktemp -d)
  export SERVICES_DIR PG_PORT=25532 KAFKA_PORT=29192
  export KAFKA_LIBS="${KAFKA_LIBS:-${TMPDIR:-/tmp}/kafka-libs-4.1.0}" # Kafka's jars, also for the tests that start a broker of their own
  # An authorizer that allows what no ACL forbids, so that rights can be revoked.
  export KAFKA_PROPERTIES="authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true"
  CHAOS_CTL="$shared/services/services"
else
  compose="docker-compose"
  if docker compose version >/dev/null 2>&1; then compose="docker compose"; fi
  CHAOS_CTL="$compose -p millrace-ci-services -f $PWD/tests/chaos/compose.yml"
fi
export CHAOS_CTL

services_up() {
  if [ -x "$shared/services/services" ]; then
    local settings
    settings=$("$shared/services/services" up | grep '^export') || return 1
    eval "$settings"
  else
    $CHAOS_CTL up -d || return 1
    POSTGRES_DSN='postgres://postgres@127.0.0.1:15432/postgres?sslmode=disable' KAFKA_BROKERS=127.0.0.1:19092
  fi
  export POSTGRES_DSN KAFKA_BROKERS KAFKA_STOP="$CHAOS_CTL kill kafka" KAFKA_START="$CHAOS_CTL start kafka"
}

services_down() {
  if [ -x "$shared/services/services" ]; then "$shared/services/services" down >/dev/null 2>&1 || true; else $CHAOS_CTL down -v || true; fi
}

