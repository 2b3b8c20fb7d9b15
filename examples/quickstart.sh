#!/bin/sh
# From a machine with a Rust toolchain to a pulled image. `quickstart.sh --help` says the rest.
set -eu
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
usage: examples/quickstart.sh [OPTION...] [IMAGE]

Installs skopeo if it is missing, builds longshore, pulls an image, and has skopeo check the result,
which is left in target/quickstart/image, an OCI image layout.

IMAGE is for example docker.io/library/debian:stable. Without it, no registry is needed: an image is
made of this machine's own files and of random bytes, and a registry on the loopback interface serves
it, each answer 20 ms late.

Options are those of `longshore pull`, such as --tls-verify=false or --platform=linux/arm64. Write
an option and its value as one word, with an equals sign.
END
}

target=${CARGO_TARGET_DIR:-target}
work=$target/quickstart
fresh=$work/new
server=

say() { printf '\n== %s\n' "$*"; }
die() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

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

# Checks the toolchain before anything is installed, because the rest is useless without one that is new enough.
check_toolchain() {
  needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  how="https://rustup.rs installs it: rustup toolchain install stable"
  if ! have cargo || ! have rustc; then
    die "Rust $needed or newer is missing. $how"
  fi
  found=$(rustc --version | cut -d ' ' -f 2)
  oldest=$(printf '%s\n%s\n' "$needed" "$found" | sort -V | sed -n 1p)
  [ "$oldest" = "$needed" ] || die "Rust $needed or newer is needed, and this is $found. $how"
  have cc || die "cc is missing, which Rust links with: please install gcc" \
    "(Debian and Ubuntu: build-essential, Fedora: gcc, Alpine: build-base, Arch: base-devel)"
}

# Sets $as_root. If there is neither root nor sudo, fails, and names the command that root must run.
need_root() {
  if [ "$(id -u)" = 0 ]; then
    as_root=
  elif have sudo; then
    as_root=sudo
  else
    die "skopeo is missing, and it takes root to install it. As root: $*"
  fi
}

install_skopeo() {
  have skopeo && return
  if have apt-get; then
    need_root "apt-get install skopeo"
    say "installing skopeo"
    $as_root apt-get -q update
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy install skopeo
  elif have dnf; then
    need_root "dnf install skopeo"
    $as_root dnf -y install skopeo
  elif have apk; then
    need_root "apk add skopeo"
    $as_root apk add skopeo
  elif have pacman; then
    need_root "pacman -S skopeo"
    $as_root pacman -S --needed --noconfirm skopeo
  else
    die "found none of apt-get, dnf, apk and pacman: please install the package skopeo, 1.6 or newer"
  fi
}

# Checks the skopeo that the search path finds, before longshore is built for it.
check_skopeo() {
  needed=1.6
  found=$(skopeo --version | cut -d ' ' -f 3)
  oldest=$(printf '%s\n%s\n' "$needed" "$found" | sort -V | sed -n 1p)
  [ "$oldest" = "$needed" ] || die "skopeo $needed or newer is needed, and $(command -v skopeo) is ${found:-unknown}." \
    "Please use a newer release of the system, for example in a container, or build skopeo:" \
    "https://github.com/containers/skopeo/blob/main/install.md"
}

# Prints folders of this machine, one on each line. Each becomes a layer. They are the largest ones between 0.5
# and 12 MB, at most 40, and at most 200 MB in all. The last line has their number and their size in kB.
find_layers() {
  for folder in /usr/share/* /usr/lib/*/* /usr/share/*/* "$(rustc --print sysroot)"/lib/rustlib/*/*; do
    if ! [ -d "$folder" ] || [ -L "$folder" ]; then continue; fi
    size=$(du -sk "$folder" 2>/dev/null) || continue # not all of it is ours to read
    echo "${size%%[!0-9]*} $folder"
  done | sort -rn | awk '
    $1 >= 500 && $1 <= 12000 && total + $1 <= 200000 && count < 40 {
      count++
      total += $1
      sub(/^[0-9]+ /, "")
      print
    }
    END { print count + 0, total + 0 }'
}

# Makes an image of at least 20 layers and 125 MB: the folders that were found, and 10 to 20 layers of
# random bytes. A smaller image would arrive before anybody sees anything.
make_image() {
  find_layers >"$work/found.txt"
  sed '$d' "$work/found.txt" >"$work/layers.txt"
  read -r count total <<END
$(sed -n '$p' "$work/found.txt")
END
  echo "$count folders of /usr and of the Rust toolchain, $((total / 1000)) MB before compression"
  rm -rf "$work/served"
  # With fewer than 10 folders, there are more random layers instead.
  layers=$((count < 10 ? 20 - count : 10))
  tr '\n' '\0' <"$work/layers.txt" |
    xargs -0 "$target/release/registry" make "$work/served:latest" --random "${layers}x12M"
}

# Starts the server, and sets $address to the address that the server prints.
start_server() {
  "$target/release/registry" serve --ttfb 20 "$work/served" >"$work/server.log" &
  server=$!
  tries=0
  until address=$(sed -n 's/^listening on //p' "$work/server.log") && [ -n "$address" ]; do
    kill -0 "$server" 2>/dev/null || die "the registry ended before it listened"
    tries=$((tries + 1))
    [ "$tries" -le 100 ] || die "the registry doesn't listen after 10 seconds"
    sleep 0.1
  done
}

reference=
options=
for word; do
  case $word in
    -h | --help) usage; exit 0 ;;
    -*) options="$options $word" ;;
    *)
      [ -z "$reference" ] || die "one IMAGE is enough: $reference, $word"
      reference=$word
      ;;
  esac
done

check_toolchain
install_skopeo
check_skopeo

say "building"
cargo build --locked --release -p longshore --bin longshore -p test-registry --bin registry

mkdir -p "$work"
if [ -z "$reference" ]; then
  say "making an image"
  make_image
  start_server
  reference=docker://$address/quickstart:latest
  options="$options --tls-verify=false"
fi
case $reference in
  *://* | *:/*) ;;
  *) reference=docker://$reference ;;
esac

# The new image is pulled beside the last result, which is replaced only when the new one is checked.
rm -rf "$fresh"
# shellcheck disable=SC2086 # several options, each one word
say longshore pull $options "$reference" "oci:$fresh:latest"
# shellcheck disable=SC2086
"$target/release/longshore" pull $options "$reference" "oci:$fresh:latest"

# The copy reads every layer and compares its digest.
say "checking with skopeo"
skopeo inspect --format 'digest {{.Digest}}, {{len .Layers}} layers' "oci:$fresh:latest"
skopeo copy --quiet "oci:$fresh:latest" "dir:$work/copy"
rm -rf "$work/copy" "$work/image" "$work/served"
mv "$fresh" "$work/image"

say "done"
cat <<END
The image is in $work/image ($(du -sh "$work/image" | cut -f 1)), an OCI image layout. Next, for example:

  skopeo inspect oci:$work/image:latest
  examples/quickstart.sh docker.io/library/debian:stable
  $target/release/longshore pull --help
END
