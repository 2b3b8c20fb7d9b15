# shellcheck shell=bash
# To be sourced. Packages of any Debian suite, fetched through a private view of apt: the machine's
# own mirror, settings and keys, but lists of our own, so that nothing of it shows in the system.

# Where everything goes; a second checkout may share it.
LONGSHORE_TOOLS=${LONGSHORE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/longshore/tools}
if [ "$LONGSHORE_TOOLS" = none ]; then
  echo "${0##*/}: LONGSHORE_TOOLS=none says that no program is to be found" >&2
  exit 1
fi
mkdir -p "$LONGSHORE_TOOLS"
LONGSHORE_TOOLS=$(cd "$LONGSHORE_TOOLS" && pwd)
export LONGSHORE_TOOLS

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The system's own package tools, as root. What they start must not keep our lock, file 9.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@" 9>&-; else sudo "$@" 9>&-; fi
}

# One run at a time may change the folder; the next one finds the work done.
lock_tools() {
  exec 9>"$LONGSHORE_TOOLS/.lock"
  flock 9
}

# Prints the address of Debian's main archive. It is asked of apt itself, because there are two formats of
# sources. Third parties and -security are left out.
archive_uri() {
  apt-get indextargets --format "\$(REPO_URI)" \
    'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' | sed -n 1p
}

# suite_apt SUITE apt-get|apt-cache ARGUMENT...
# The machine's settings apply, such as its proxies. But everything is in our folder, no hook of the system
# runs, and nothing unsigned is accepted. The keys are those in trusted/.
suite_apt() {
  local dir=$LONGSHORE_TOOLS/debian/$1 program=$2
  shift 2
  cat >"$dir/apt.conf" <<END
Dir::State "$dir";
Dir::State::Lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trustedparts "$LONGSHORE_TOOLS/debian/trusted";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
APT::Sandbox::User "$(id -un)";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
END
  "$program" -qq -c "$dir/apt.conf" "$@" </dev/null 9>&-
}

# Fetches the suite's list of packages, then its keyring, which knows the keys of the suite after
# it: from bookworm on, each step is verified by the one before.
suite_update() {
  local suite=$1 dir=$LONGSHORE_TOOLS/debian/$1 trusted=$LONGSHORE_TOOLS/debian/trusted uri package
  local keyring=usr/share/keyrings/debian-archive-keyring.gpg
  mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$trusted"
  if ! [ -s "$trusted/machine.gpg" ]; then
    [ -s "/$keyring" ] || die "/$keyring is missing: install debian-archive-keyring"
    cp "/$keyring" "$trusted/machine.gpg"
  fi

  uri=$(archive_uri)
  if [ -z "$uri" ]; then # no lists yet, as in a fresh container
    as_root apt-get -qq update >&2
    uri=$(archive_uri)
  fi
  [ -n "$uri" ] || die "no Debian archive among apt's sources, so no packages of Debian $suite"

  echo "deb [target=Packages arch=$(dpkg --print-architecture)] $uri $suite main" >"$dir/sources.list"
  # apt's solver is told that these packages are installed: libraries depend on them, but no test needs them.
  for package in debconf dmsetup dirmngr gnupg gpg gpg-agent gpgconf gpgsm golang-github-containers-common; do
    printf 'Package: %s\nStatus: install ok installed\nVersion: 99:0\nArchitecture: all\n' "$package"
    printf 'Multi-Arch: foreign\nMaintainer: none\nDescription: none\n\n'
  done >"$dir/status"

  say "fetching the package list of Debian $suite"
  suite_apt "$suite" apt-get update >&2

  suite_unpack "$suite" "$dir/keyring" debian-archive-keyring
  cp "$dir/keyring/$keyring" "$trusted/$suite.gpg"
}

# suite_download SUITE FOLDER PACKAGE...: the packages' .deb files, into a new folder.
suite_download() {
  local suite=$1 folder=$2
  shift 2
  rm -rf "$folder"
  mkdir -p "$folder"
  (cd "$folder" && suite_apt "$suite" apt-get -o Dir::State::status=/dev/null download "$@" >&2)
}

# suite_unpack SUITE FOLDER PACKAGE...: the packages' files, without installing them.
suite_unpack() {
  local suite=$1 folder=$2 deb debs=$LONGSHORE_TOOLS/debs
  shift 2
  suite_download "$suite" "$debs" "$@"
  rm -rf "$folder"
  mkdir -p "$folder"
  for deb in "$debs"/*.deb; do
    dpkg-deb -x "$deb" "$folder"
  done
  rm -rf "$debs"
}
