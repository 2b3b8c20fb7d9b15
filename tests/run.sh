#!/usr/bin/env bash
# run.sh [--long]: installs the tools that the tests need, runs the lints, every test of the workspace
# and a short soak, and builds the documentation. CONTRIBUTING.md lists the other checks.
# No test is left out: what is missing and can't be installed is a failure.
#
# --long adds what takes more than an hour: the mutants, the fuzz targets and the soak for longer,
# and more kills.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  echo 'usage: tests/run.sh [--long]' >&2
  exit 2
}
[ $# -le 1 ] || usage
long=
case ${1:-} in
  '') ;;
  --long) long=yes ;;
  *) usage ;;
esac

step() {
  printf '\n== %s\n' "$*"
  "$@"
}

printf '== tests/tools.sh\n'
LONGSHORE_TOOLS=$(tests/tools.sh ${long:+cargo-mutants})
export LONGSHORE_TOOLS PATH="$LONGSHORE_TOOLS/cargo/bin:$PATH"

step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
# With no feature, and with each feature alone.
for features in '' decompress cli; do
  step cargo clippy --locked --no-default-features --features "$features" -- -D warnings
done

# First the tests without #[ignore]. No program can be found, so a test that needs one fails. Then the
# others.
step env LONGSHORE_TOOLS=none cargo nextest run --locked --workspace
step cargo nextest run --locked --workspace --run-ignored only

for package in longshore longshore-image-proxy; do
  step cargo test --locked --doc -p "$package"
  step env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps -p "$package"
done

soak=(
  "${CARGO_TARGET_DIR:-target}/debug/soak"
  --skopeo "$LONGSHORE_TOOLS/skopeo-0.2.3/skopeo"
  --skopeo "$LONGSHORE_TOOLS/skopeo-0.2.6/skopeo"
  --skopeo "$LONGSHORE_TOOLS/skopeo-0.2.8/skopeo"
)
# The soak is the debug build of the tests, because it checks, and measures nothing.
step "${soak[@]}" --minutes "$([ "$long" ] && echo 30 || echo 0.5)"

if [ "$long" ]; then
  step env LONGSHORE_KILLS=300 cargo nextest run --locked --run-ignored only -E 'test(/^kills::/)'
  step env BOLERO_RANDOM_TEST_TIME_MS=300000 cargo test --locked -p longshore-fuzz --tests
  step tests/mutants.sh
fi

printf '\nall checks passed in %s s\n' "$SECONDS"
