#!/usr/bin/env bash
# Keeps the benchmarks from rotting: compiles the small ones, checks benches/compare, and has it
# pull a tiny image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/micro"
cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings

cd ../compare

# One profile for all, so that the peers' dependencies are built once, and the project's folder, for
# what is compiled there already.
export CARGO_TARGET_DIR=$PWD/../../target
cargo fmt --check
cargo clippy --release --locked --all-targets -- -D warnings
cargo test --release --locked
cargo run --release --locked -- --tiny --runs 1 --workloads B --ttfb 10 \
  --contestants longshore,skopeo,cip:16:raw
