#!/usr/bin/env bash
# Checks that the benchmarks still work: benches/compare pulls tiny images. tests/run.sh checks that all of
# them compile and pass their own tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo run --locked -p longshore-compare -- --tiny --runs 1 --workloads B --ttfb 10 \
  --contestants longshore,skopeo,cip:16:raw
cargo run --locked -p longshore-compare -- --tiny --runs 1 --workloads H1,H2,H3,H4 --ttfb 10 \
  --contestants longshore,oras,oras@8
cargo run --locked -p longshore-compare -- --tiny --runs 1 --workloads B --registry distant \
  --distance 10:1000 --contestants longshore,skopeo,crane,oras
cargo run --locked -p longshore-compare -- --tiny --runs 1 --workloads G --ttfb 10 --tree-memory \
  --contestants longshore,cip:16,cip:16:raw,crane,skopeo,oras,umoci,bare:2
