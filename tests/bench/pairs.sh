#!/usr/bin/env bash
# Compares two versions of the service: pairs.sh A B [ROUNDS [FLAGS…]]. A and B are revisions, or executables that were built from tests/bench; "." is the
# work tree. Each round runs both, in turn, with the flags (default: 3,000 sagas without baselines). Prints the medians of A and of B, and the median
# and the range of the ratios B/A of the rounds. POSTGRES_DSN and KAFKA_BROKERS say where, as for the bench itself. It needs jq, and a machine that does
# nothing else.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build() { # NAME REVISION_OR_EXECUTABLE
  if [ -f "$2" ] && [ -x "$2" ]; then cp "$2" "$work/$1"; return; fi
  local source=.
  if [ "$2" != . ]; then
    source=$work/source-$1
    mkdir "$source"
    git archive "$2" | tar -xf - -C "$source"
  fi
  go build -C "$source" -o "$work/$1" ./tests/bench
}
build a "$1"
build b "$2"
rounds=${3:-3}
shift 2; shift || true
[ $# -gt 0 ] || set -- -alone -only sagas -sagas 3000 -probes 60
for round in $(seq "$rounds"); do
  order="a b"
  [ $((round % 2)) = 1 ] || order="b a" # what drifts does so against both
  for version in $order; do
    echo "round $round of $rounds: $version" >&2
    "$work/$version" "$@" -rounds 1 -json "$work/$version$round.json" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
  done
done
{
  printf 'figure\tA\tB\tB/A\tlowest\thighest\n'
  jq -rn --slurpfile a <(cat "$work"/a[0-9]*.json) --slurpfile b <(cat "$work"/b[0-9]*.json) '
    def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2] + .[length / 2 - 1]) / 2 end;
    def short: if . >= 100 then round else . * 1000 | round / 1000 end;
    def of($figure): [.[][] | select(.name == $figure.name and .against == $figure.against) | .ours];
    $a[0][] as $figure | [$a | of($figure)[]] as $ours | [$b | of($figure)[]] as $theirs | select(($ours | length) == ($theirs | length)) # else one version lacks it
    | [range($ours | length) | $theirs[.] / $ours[.]] as $ratios
    | [$figure.name + ", " + $figure.unit, ([$ours, $theirs | median], [$ratios | median, min, max] | map(short) | .[])] | @tsv'
} | column -t -s $'\t'
