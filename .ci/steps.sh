# shellcheck shell=bash
# To be sourced: how a step is run and timed, and the profiles of all builds.

# Nothing is compiled twice here, so that keeping more than the result would only take time and room.
export CARGO_INCREMENTAL=0
# Nor is anything debugged here: a backtrace names its functions without that.
export CARGO_PROFILE_DEV_DEBUG=none CARGO_PROFILE_RELEASE_DEBUG=none
# Nothing is measured here either.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1

step() {
  local begun=$SECONDS
  "$@"
  printf '\n== %s took %s s\n' "$1" "$((SECONDS - begun))"
}
