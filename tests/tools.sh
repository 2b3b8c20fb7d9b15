#!/usr/bin/env bash
# tools.sh [CARGO-TOOL...]: installs what the tests need, and prints the folder that holds the private
# part:
#
#   skopeo-0.2.3/skopeo  skopeo-0.2.6/skopeo  skopeo-0.2.8/skopeo   by the proxy protocol they speak
#   crane/crane  oras/oras
#   cargo/bin/                                                      cargo-nextest, and each CARGO-TOOL
#
# The rest comes from the system's package manager. Debian's archive has all of it; elsewhere, put
# executables of your own at these places. cargo installs its tools from the registry that it is
# configured for, which takes minutes, unless they are in $PATH. $LONGSHORE_TOOLS overrides the folder.
# Fails unless every part is there in the end: without one, the tests must not pass.
set -euo pipefail
# shellcheck source=tests/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

# The Debian suites, oldest first: suite, what it is unpacked for.
suites='bookworm skopeo patchelf
trixie skopeo
forky skopeo crane oras'

# The private tools: program, suite, question, beginning of a right answer.
tools='skopeo-0.2.3/skopeo bookworm --version skopeo version 1.9.
skopeo-0.2.6/skopeo trixie --version skopeo version 1.18.
skopeo-0.2.8/skopeo forky --version skopeo version 1.2
crane/crane forky version
oras/oras forky version'

# The private tools (of one suite, if given) that are absent, or don't answer as they should.
missing_tools() {
  local program suite question answer output
  while read -r program suite question answer; do
    [ "$suite" = "${1:-$suite}" ] || continue
    if ! output=$("$LONGSHORE_TOOLS/$program" "$question" 2>/dev/null </dev/null) ||
      [[ $output != "$answer"* ]]; then
      echo "$program"
    fi
  done <<<"$tools"
}

# What the system should have and doesn't, by package.
missing_packages() {
  have skopeo || echo skopeo
  have docker-registry || echo docker-registry
  have umoci || echo umoci
  have openssl || echo openssl
  have buildah || echo buildah
  # buildah 1.39, that of Debian 13, does not begin without it.
  [ -e /usr/lib/podman/netavark ] || echo netavark
  have strace || echo strace
  have faketime || echo faketime
  # To look at the timeline of a pull.
  have chromium || echo chromium
  # Signing, in the tests, and verifying, in skopeo.
  have gpg || echo gpg
  have gpg-agent || echo gpg-agent
  # The private skopeos read the system's policy too.
  [ -e /etc/containers/policy.json ] || echo golang-github-containers-common
}

# put_program FOLDER/PROGRAM SUITE
# Puts SUITE's program there, with that suite's loader and libraries written into it, so that it is
# started as if it had been installed. A wrapper would add two milliseconds to each start, a fifth
# of what skopeo takes, and benches/compare would count them against programs that start several.
put_program() {
  local place=$LONGSHORE_TOOLS/$1 root=$LONGSHORE_TOOLS/$2 loader
  loader=$(loader_of "$2")
  mkdir -p "${place%/*}"
  cp "$root/usr/bin/${1##*/}" "$place.new"
  private_patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$(libraries_of "$2")" "$place.new"
  mv "$place.new" "$place"
}

# The dynamic loader among SUITE's packages.
loader_of() {
  local root=$LONGSHORE_TOOLS/$1 loader
  loader=$(find "$root" -name 'ld-linux*.so.*' -path '*/*-linux-gnu*/*' | sed -n 1p)
  [ -n "$loader" ] || die "no dynamic loader among the packages of Debian $1"
  echo "$loader"
}

# The folders of the libraries among SUITE's packages.
libraries_of() {
  local root=$LONGSHORE_TOOLS/$1 lib
  lib=$(basename "$(dirname "$(loader_of "$1")")")
  echo "$root/lib/$lib:$root/usr/lib/$lib"
}

# The patchelf of bookworm, without installing it. Since version 0.16, as in trixie, the programs that patchelf has
# changed may crash when they start (https://github.com/NixOS/patchelf/issues/446).
private_patchelf() {
  "$(loader_of bookworm)" --library-path "$(libraries_of bookworm)" "$LONGSHORE_TOOLS/bookworm/usr/bin/patchelf" "$@"
}

# Whether packages of SUITE are to be unpacked: for a tool that is missing, or because patchelf is among them.
is_to_unpack() {
  local suite=$1 packages=$2
  [ -n "$(missing_tools "$suite")" ] ||
    { [[ " $packages " = *' patchelf '* ]] && ! [ -x "$LONGSHORE_TOOLS/$suite/usr/bin/patchelf" ]; }
}

# Unpacks the programs of three Debian suites side by side, which no package manager can install.
install_private() {
  local suite packages program of root closure
  while read -r suite packages; do
    suite_update "$suite"
    is_to_unpack "$suite" "$packages" || continue
    say "unpacking $packages of Debian $suite"
    root=$LONGSHORE_TOOLS/$suite
    # shellcheck disable=SC2086 # several packages
    closure=$(suite_apt "$suite" apt-get -s --no-install-recommends install $packages | awk '/^Inst/ { print $2 }')
    # shellcheck disable=SC2086
    suite_unpack "$suite" "$root" $closure
    while read -r program of _; do
      [ "$of" != "$suite" ] || put_program "$program" "$suite"
    done <<<"$tools"
  done <<<"$suites"
}

install_system() {
  say "installing $*"
  as_root apt-get -qq update >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$@" >&2
}

# Has cargo compile those of its own tools that are not there.
install_cargo_tools() {
  local tool
  for tool; do
    have "$tool" || [ -x "$LONGSHORE_TOOLS/cargo/bin/$tool" ] && continue
    say "compiling $tool, which takes a minute or more"
    # Not optimised: cargo-deny, for one, runs for a second, and would compile for several minutes.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=none \
      cargo install --quiet --locked --root "$LONGSHORE_TOOLS/cargo" "$tool" >&2 9>&-
  done
}

lock_tools
install_cargo_tools cargo-nextest "$@"
if [ -n "$(missing_tools)$(missing_packages)" ]; then
  if ! have apt-get || ! have dpkg-deb; then
    still=$(missing_packages && missing_tools)
    die "no apt here, so can't install (into $LONGSHORE_TOOLS): ${still//$'\n'/ }"
  fi
  packages=$(missing_packages)
  # shellcheck disable=SC2086 # several packages
  [ -z "$packages" ] || install_system $packages
  [ -z "$(missing_tools)" ] || install_private
  still=$(missing_packages && missing_tools)
  [ -z "$still" ] || die "still missing, or not the right version: ${still//$'\n'/ }"
fi
echo "$LONGSHORE_TOOLS"
