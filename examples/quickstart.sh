#!/bin/sh
# quickstart.sh [IMAGE]: from a machine with a Rust toolchain to a pulled image, which lies in
# target/quickstart/image as an OCI layout. IMAGE is for example docker.io/library/debian:stable.
#
# Without IMAGE it needs no registry: it makes an image of this machine's own files, serves that on
# the loopback interface with the `registry` example, and pulls it from there.
set -eu
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
work=$target/quickstart
image=$work/image:latest
server=

say() { printf '\n== %s\n' "$*"; }
die() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Ends the server, however this script ends.
clean_up() {
  [ -n "$server" ] || return 0
  kill "$server" 2>/dev/null || true
  wait "$server" || true
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

install_skopeo() {
  have skopeo && return
  say "installing skopeo"
  if have apt-get; then
    as_root apt-get -q update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy install skopeo
  elif have dnf; then
    as_root dnf -y install skopeo
  elif have apk; then
    as_root apk add skopeo
  elif have pacman; then
    as_root pacman -S --needed --noconfirm skopeo
  else
    die "found none of apt-get, dnf, apk and pacman: please install skopeo 1.9 or newer"
  fi
}

check_toolchain() {
  have cargo || die "cargo is missing: please install a Rust toolchain, https://rustup.rs"
  have cc || die "cc is missing, which Rust links with: please install gcc" \
    "(Debian and Ubuntu: build-essential, Fedora: gcc, Alpine: build-base, Arch: base-devel)"
}

# Up to a dozen folders of this machine, a layer each, one a line: the largest of those between 1 and
# 15 MB, and 150 MB in all.
find_layers() {
  for folder in /usr/share/* /usr/lib/*/* "$(rustc --print sysroot)"/lib/rustlib/*/*; do
    if ! [ -d "$folder" ] || [ -L "$folder" ]; then continue; fi
    size=$(du -sk "$folder" 2>/dev/null) || continue # not all of it is ours to read
    echo "${size%%[!0-9]*} $folder"
  done | sort -rn | awk '
    $1 >= 1000 && $1 <= 15000 && total + $1 <= 150000 && count < 12 {
      total += $1
      count++
      sub(/^[0-9]+ /, "")
      print
    }'
}

# Sets $address. The server says where it listens in its first line.
start_server() {
  "$target/release/examples/registry" serve "$work/served" >"$work/server.log" &
  server=$!
  tries=0
  until address=$(sed -n 's/^listening on //p' "$work/server.log") && [ -n "$address" ]; do
    kill -0 "$server" 2>/dev/null || die "the registry ended before it listened"
    tries=$((tries + 1))
    [ "$tries" -le 100 ] || die "the registry doesn't listen after 10 seconds"
    sleep 0.1
  done
}

pull() {
  say "longshore pull $*"
  "$target/release/longshore" pull "$@"
}

check_toolchain
install_skopeo

say "building"
cargo build --release --bin longshore --example registry

rm -rf "$work"
mkdir -p "$work"
if [ $# -gt 0 ]; then
  case $1 in
    *://*) pull "$1" "oci:$image" ;;
    *) pull "docker://$1" "oci:$image" ;;
  esac
else
  say "making an image of this machine's files"
  find_layers >"$work/layers.txt"
  [ -s "$work/layers.txt" ] || die "no folders of the right size under /usr/share and /usr/lib"
  cat "$work/layers.txt"
  tr '\n' '\0' <"$work/layers.txt" |
    xargs -0 "$target/release/examples/registry" make "$work/served:latest"
  start_server
  pull --tls-verify=false "docker://$address/quickstart:latest" "oci:$image"
fi

# The copy reads every layer and compares its digest.
say "checking with skopeo"
skopeo inspect --format 'digest {{.Digest}}, {{len .Layers}} layers' "oci:$image"
skopeo copy --quiet "oci:$image" "dir:$work/copy"
rm -rf "$work/copy"

say "done"
cat <<END
The image is in $work/image ($(du -sh "$work/image" | cut -f 1)), an OCI layout. Next, for example:

  skopeo inspect oci:$image
  examples/quickstart.sh docker.io/library/debian:stable
  $target/release/longshore pull --help
END
