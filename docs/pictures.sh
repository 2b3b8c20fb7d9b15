#!/usr/bin/env bash
# pictures.sh [PROFILE]: draws the pictures at the top of README.md: docs/one-proxy.svg and docs/pull.svg.
#
# Both show a pull of the same image: 40 layers of 500 KiB, from a registry on the loopback interface that
# answers each request 50 ms late. One proxy with one worker fetches one layer after the other, as a program
# does that drives one `skopeo experimental-image-proxy`; the other pull has the default options. Each is
# pulled five times, and the fastest is drawn, on the same time axis. PROFILE is cargo's, by default
# release. The layouts are in memory. $LONGSHORE_SKOPEO is the skopeo to use, by default the one in $PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${1:-release}
address=127.0.0.1:5055
image=docker://$address/40-layers:latest
skopeo=${LONGSHORE_SKOPEO:-skopeo}
programs=${CARGO_TARGET_DIR:-target}/${profile/#dev/debug}
work=$(mktemp -d -p /dev/shm)
server=

clean_up() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT

cargo build --quiet --locked --profile "$profile" -p longshore -p test-registry
"$programs/registry" make "$work/layout" --random 40x500K >"$work/digest"
"$programs/registry" serve "$work/layout" --listen "$address" --ttfb 50 >"$work/server" &
server=$!
until grep -qs listening "$work/server"; do
  kill -0 "$server" 2>/dev/null || { echo "pictures.sh: no registry at $address" >&2; exit 1; }
  sleep 0.05
done

# pull FILE OPTION...: pulls the image, draws the pull, and prints how many milliseconds it took.
pull() {
  local file=$1
  shift
  rm -rf "$work/image"
  "$programs/longshore" pull --json --skopeo "$skopeo" --tls-verify=false --insecure-policy \
    --timeline "$file" "$@" "$image" "oci:$work/image" |
    sed -n 's/.*"elapsed_ms":\([0-9]*\).*/\1/p'
}

# fastest FILE OPTION...: the fastest of five pulls.
fastest() {
  local file=$1 best= took
  shift
  for _ in 1 2 3 4 5; do
    took=$(pull "$work/new.svg" "$@")
    if [ -z "$best" ] || [ "$took" -lt "$best" ]; then
      best=$took
      mv "$work/new.svg" "$file"
    fi
  done
  echo "$best"
}

one=$(fastest "$work/one-proxy.svg" --proxies 1 --workers 1)
many=$(fastest "$work/pull.svg" --timeline-axis "${one}ms")
for file in one-proxy.svg pull.svg; do
  [ "$(stat -c %s "$work/$file")" -lt 61440 ] || { echo "pictures.sh: $file is too large" >&2; exit 1; }
done
mv "$work/one-proxy.svg" "$work/pull.svg" docs/
echo "one proxy, one worker: $one ms; longshore: $many ms"
