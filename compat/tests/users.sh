#!/usr/bin/env bash
# users.sh: compiles a program that others wrote for containers-image-proxy 0.11, once with that crate and once with
# longshore-image-proxy in its place, and compares what both print. Compiling takes some minutes, so tests/run.sh leaves
# this script out.
#
# The program is composefs-oci, from the registry of crates, which imports images into a composefs repository. It is
# fetched for this test. Nothing of it is changed: cargo patches its dependency.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
LONGSHORE_TOOLS=$(tests/tools.sh)
skopeo=$LONGSHORE_TOOLS/skopeo-0.2.8/skopeo

target=${CARGO_TARGET_DIR:-$root/target}
# Always the same folder, so that a second run compiles less.
work=$target/compat-users/work
rm -rf "$work"
mkdir -p "$work"
registry=
cleanup() {
  [ -z "$registry" ] || kill "$registry"
  rm -rf "$work"
}
trap cleanup EXIT
cargo build --quiet --locked -p test-registry
export CARGO_TARGET_DIR=$target/compat-users RUST_BACKTRACE=0

# A copy of this package that has the other one's name and version, as [patch] wants it. What it inherits from the
# workspace is copied, too.
make_stand_in() {
  mkdir -p "$1/proxy"
  cp -r compat/src "$1/proxy/"
  sed -e '/^\[dev-dependencies\]/,/^$/d' -e '/^readme/d' -e '/^include/,/^]/d' \
    -e 's/^name = "longshore-image-proxy"/name = "containers-image-proxy"/' -e 's/^version = .*/version = "0.11.2"/' \
    -e "s|path = \"..\"|path = \"$root\"|" compat/Cargo.toml >"$1/proxy/Cargo.toml"
  {
    printf '[workspace]\nmembers = ["pull", "proxy"]\nresolver = "3"\n'
    sed -e '1,/^]/d' -e '/^\[package\]/,$d' -e 's|path = "\.", |path = "'"$root"'", |' \
      -e '/path = "tests/d' Cargo.toml
    printf '[patch.crates-io]\ncontainers-image-proxy = { path = "proxy" }\n'
  } >"$1/Cargo.toml"
}

make_program() {
  mkdir -p "$1/pull/src"
  [ -e "$1/Cargo.toml" ] || printf '[workspace]\nmembers = ["pull"]\nresolver = "3"\n' >"$1/Cargo.toml"
  cat >"$1/pull/Cargo.toml" <<'TOML'
[package]
name = "pull"
version = "0.0.0"
edition = "2024"

[dependencies]
anyhow = "1"
composefs-oci = { version = "=0.9.4", default-features = false }
containers-image-proxy = "0.11"
rustix = { version = "1", features = ["fs"] }
tokio = { version = "1", features = ["full"] }
TOML
  cat >"$1/pull/src/main.rs" <<'RUST'
//! pull SKOPEO IMAGE FOLDER: imports an image into a new composefs repository, twice.
use std::{process::Command, sync::Arc};

use composefs_oci::composefs::{fsverity::Sha256HashValue, repository::{Repository, RepositoryConfig}};
use containers_image_proxy::ImageProxyConfig;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let [skopeo, image, folder] = std::env::args().skip(1).collect::<Vec<_>>().try_into().unwrap();
    let config = RepositoryConfig::default().set_insecure();
    let (repository, _) = Repository::<Sha256HashValue>::init_path(rustix::fs::CWD, &folder, config)?;
    let repository = Arc::new(repository);
    for name in ["first", "second"] {
        let mut config = ImageProxyConfig::default();
        config.skopeo_cmd = Some(Command::new(&skopeo));
        config.insecure_policy = Some(true);
        config.insecure_skip_tls_verification = Some(true);
        let (digest, verity, _) = composefs_oci::skopeo::pull(&repository, &image, Some(name), Some(config)).await?;
        println!("{name}: {digest} {verity:?}");
    }
    Ok(())
}
RUST
}

mkdir -p "$work/theirs" "$work/ours"
make_stand_in "$work/ours"
for side in theirs ours; do
  make_program "$work/$side"
  (cd "$work/$side" && cargo build --quiet)
  cp "$CARGO_TARGET_DIR/debug/pull" "$work/pull-$side"
  (cd "$work/$side" && cargo tree --quiet -p pull -i containers-image-proxy --depth 1)
done

# An image of a few folders: what composefs imports has a folder `usr`.
sources=()
for number in 1 2 3 4 5 6; do
  sources+=("$work/layer-$number")
  mkdir -p "$work/layer-$number/usr/lib"
  head -c 3M /dev/urandom >"$work/layer-$number/usr/lib/file-$number"
done
"$target/debug/registry" make "$work/layout:latest" "${sources[@]}" >"$work/made"
"$target/debug/registry" serve "$work/layout" --ttfb 20 >"$work/serving" &
registry=$!
until address=$(sed -n 's/^listening on //p' "$work/serving") && [ -n "$address" ]; do sleep 0.1; done

for side in theirs ours theirs ours; do
  begun=$(date +%s%N)
  "$work/pull-$side" "$skopeo" "docker://$address/image:latest" "$work/repository-$side-$begun" >"$work/out-$side"
  printf '%s: %d ms\n' "$side" $((($(date +%s%N) - begun) / 1000000))
done
diff "$work/out-theirs" "$work/out-ours"
cat "$work/out-ours"
echo 'composefs-oci 0.9.4 compiles unchanged with longshore-image-proxy, and imports the same.'
