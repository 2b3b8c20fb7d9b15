# shellcheck shell=bash
# To be sourced: how a step is run and timed, and the profiles of all builds.

# Nothing is compiled twice here, so incremental builds would only cost time and disk space.
export CARGO_INCREMENTAL=0
# Nothing is debugged here. A backtrace contains the names of functions without debug information, too.
export CARGO_PROFILE_DEV_DEBUG=none CARGO_PROFILE_RELEASE_DEBUG=none
# Nothing is measured here, so release builds are optimised only a little.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1

step() {
  local begun=$SECONDS
  "$@"
  printf '\n== %s took %s s\n' "$1" "$((SECONDS - begun))"
}
