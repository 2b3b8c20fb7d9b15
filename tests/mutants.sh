#!/usr/bin/env bash
# mutants.sh [CARGO-MUTANTS-OPTION...]: changes the pure modules in one place at a time, and runs their
# unit tests, which must notice. .cargo/mutants.toml names the modules, and the changes that make no
# difference.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

LONGSHORE_TOOLS=$(tests/tools.sh cargo-mutants)
PATH=$LONGSHORE_TOOLS/cargo/bin:$PATH
# Only the unit tests: they need nothing, and take seconds.
cargo mutants --package longshore --no-shuffle --output target "$@" -- --locked --lib
