#!/usr/bin/env bash
# Makes the two services out of the template, in DIR/orders and DIR/billing: by its own tools, and with what stands here in _orders and
# _billing, which is what a person would type. Then: docker compose -f docker-compose.yml up, with TWO_SERVICES=DIR.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
template=$(cd "$here/../.." && pwd)
dir=${1:?where to: make.sh DIR}
mkdir -p "$dir"
for service in orders billing; do
  rm -rf "${dir:?}/$service"
  mkdir "$dir/$service"
  (cd "$template" && git ls-files -co --exclude-standard -z | xargs -0 -I{} sh -c '[ ! -e "{}" ] || echo "{}"' | tar -cf - -T -) | tar -xf - -C "$dir/$service"
  cd "$dir/$service"
  git init -q && git add -A && git -c user.name=x -c user.email=x@example.com commit -qm template
  make init MODULE="example.com/$service" NAME=$service
  if [ $service = billing ]; then
    git add -A && git -c user.name=x -c user.email=x@example.com commit -qm init
    make remove-example
    go run ./tools/scaffold aggregate invoice
    for event in Issued Refused Cancelled; do go run ./tools/scaffold event invoice $event; done
    for command in IssueInvoice CancelInvoice; do go run ./tools/scaffold command invoice $command; done
  fi
  cp -r "$here/_$service/." .
  [ $service = billing ] || sed -i.bak 's/saga.New(fulfilment.Definition),/saga.New(fulfilment.Invoiced),\n\t\t&/' sagas/sagas.go
  [ $service = billing ] || sed -i.bak 's/^\t\tWarehouse,/&\n\t\tbilling,/' app/external/external.go
  rm -f sagas/sagas.go.bak app/external/external.go.bak
  [ $service = billing ] || sed -i.bak 's/^TOPIC_PREFIX=.*/&\n# What the topics of billing begin with.\nBILLING_TOPICS=billing/' .env.example
  rm -f .env.example.bak
  make generate
done
