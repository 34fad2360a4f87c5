#!/usr/bin/env bash
# What the first `go run .` costs on a machine that has Go alone: cold_start.sh [REVISION…], side by side, each from empty caches. Default: HEAD.
# Prints the modules that are linked, the packages, the size of the binary, and the seconds for the download and for the build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
printf '%-12s %8s %9s %12s %12s %9s %9s\n' revision modules packages 'binary MB' 'download MB' 'download' build
for revision in "${@:-HEAD}"; do
  git archive --prefix=source/ "$revision" | tar -xf - -C "$work"
  export GOMODCACHE=$work/modules GOCACHE=$work/build GOFLAGS=-modcacherw
  cd "$work/source"
  began=$(date +%s.%N)
  go list -deps . >"$work/packages" 2>/dev/null # downloads what is linked, and nothing else
  downloaded=$(date +%s.%N)
  go build -o "$work/binary" .
  built=$(date +%s.%N)
  printf '%-12s %8d %9d %12.1f %12.1f %8.0fs %8.0fs\n' "$revision" "$(go version -m "$work/binary" | grep -c '^	dep')" "$(wc -l <"$work/packages")" \
    "$(stat -c %s "$work/binary" | awk '{print $1/1e6}')" "$(du -bc "$work"/modules/cache/download/*/*/*/@v/*.zip "$work"/modules/cache/download/*/*/@v/*.zip "$work"/modules/cache/download/*/*/*/*/@v/*.zip 2>/dev/null | tail -1 | awk '{print $1/1e6}')" \
    "$(awk "BEGIN{print $downloaded-$began}")" "$(awk "BEGIN{print $built-$downloaded}")"
  cd - >/dev/null
  rm -rf "$work/source" "$work/modules" "$work/build" "$work/binary"
done
