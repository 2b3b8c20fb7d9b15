#!/usr/bin/env bash
# Every check of the project, from the tools the tests need to the documentation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
  printf '\n== %s\n' "$*"
  "$@"
}

printf '== tests/tools.sh\n'
LONGSHORE_TOOLS=$(tests/tools.sh)
export LONGSHORE_TOOLS

step cargo fmt --all --check
step cargo clippy --all-targets -- -D warnings
step cargo clippy --lib --no-default-features -- -D warnings
step cargo fmt --manifest-path fuzz/Cargo.toml --check
step cargo test
# Each fuzz target for some seconds, with the crates that are compiled already.
step cargo test --manifest-path fuzz/Cargo.toml --target-dir target --locked
# With the build of the tests: it checks, and measures nothing.
step cargo run --example soak -- --minutes 1 \
  --skopeo "$LONGSHORE_TOOLS/skopeo-0.2.3/skopeo" \
  --skopeo "$LONGSHORE_TOOLS/skopeo-0.2.6/skopeo" \
  --skopeo "$LONGSHORE_TOOLS/skopeo-0.2.8/skopeo"
step env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

printf '\nall checks passed in %s s\n' "$SECONDS"
