//! The least that workload G of `benches/compare` takes: layers are inflated, hashed twice, and walked as tar archives.
//! They are in memory. Nothing starts, waits or copies. Each step is measured with those before it, on one thread and
//! on two, by the clock and by CPU time.
//!
//! The layers are the `*.tar.gz` files in the folder that `$BENCH_LAYERS` names, or those that
//! `tests/real-image.sh --large` makes.

#![allow(clippy::expect_used, reason = "a benchmark may fail this way")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bench_walk::{BUFFER_BYTES, Hashing, Totals, on_threads, walk, walk_layer};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use flate2::bufread::MultiGzDecoder;
use longshore_micro::process_cpu_time;
use sha2::{Digest as _, Sha256};

/// A layer in memory.
struct Layer {
    compressed: Vec<u8>,
    digest: String,
    diff_id: String,
}

type Step = fn(&Layer) -> io::Result<Totals>;

const STEPS: [(&str, Step); 5] = [
    ("sha256 of the compressed", hash),
    ("inflate", inflate),
    ("inflate, walk", inflate_walk),
    ("inflate, sha256, walk", inflate_hash_walk),
    ("inflate, sha256 twice, walk", everything),
];

fn hash(layer: &Layer) -> io::Result<Totals> {
    Hashing::new(&layer.compressed[..]).check(&layer.digest)?;
    Ok(Totals::default())
}

fn inflate(layer: &Layer) -> io::Result<Totals> {
    let mut inflated = MultiGzDecoder::new(&layer.compressed[..]);
    let mut buffer = vec![0; BUFFER_BYTES];
    while inflated.read(&mut buffer)? > 0 {}
    Ok(Totals::default())
}

fn inflate_walk(layer: &Layer) -> io::Result<Totals> {
    let inflated = MultiGzDecoder::new(&layer.compressed[..]);
    walk(io::BufReader::with_capacity(BUFFER_BYTES, inflated))
}

fn inflate_hash_walk(layer: &Layer) -> io::Result<Totals> {
    let inflated = MultiGzDecoder::new(&layer.compressed[..]);
    walk_layer(inflated, &layer.diff_id)
}

/// Hashes each piece of the compressed bytes just before it is inflated, while it is in the cache.
fn everything(layer: &Layer) -> io::Result<Totals> {
    let mut hashing = Hashing::new(&layer.compressed[..]);
    let compressed = io::BufReader::with_capacity(BUFFER_BYTES, &mut hashing);
    let totals = walk_layer(MultiGzDecoder::new(compressed), &layer.diff_id)?;
    hashing.check(&layer.digest)?;
    Ok(totals)
}

fn layers(files: &[PathBuf]) -> io::Result<Vec<Layer>> {
    let layer = |file: &PathBuf| {
        let compressed = fs::read(file)?;
        let digest = digest_of(&compressed[..])?;
        let diff_id = digest_of(MultiGzDecoder::new(&compressed[..]))?;
        Ok(Layer {
            compressed,
            digest,
            diff_id,
        })
    };
    let mut layers: Vec<Layer> = files.iter().map(layer).collect::<io::Result<_>>()?;
    // As in `benches/compare`: the threads end at about the same time.
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.compressed.len()));
    Ok(layers)
}

fn digest_of(mut bytes: impl Read) -> io::Result<String> {
    use std::fmt::Write as _;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    while let count @ 1.. = bytes.read(&mut buffer)? {
        hasher.update(&buffer[..count]);
    }
    let digest = hasher.finalize();
    Ok(digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn files() -> io::Result<Vec<PathBuf>> {
    let folder = match std::env::var_os("BENCH_LAYERS") {
        Some(folder) => folder,
        None => real_layers()?,
    };
    let entries = fs::read_dir(folder)?;
    let files: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = files?;
    files.retain(|file| file.extension().is_some_and(|end| end == "gz"));
    Ok(files)
}

fn real_layers() -> io::Result<OsString> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/real-image.sh");
    let output = Command::new(script).arg("--large").output()?;
    if !output.status.success() {
        return Err(io::Error::other("tests/real-image.sh failed"));
    }
    let folder = String::from_utf8(output.stdout).map_err(io::Error::other)?;
    Ok(folder.trim().into())
}

fn by_the_clock(c: &mut Criterion) {
    bench(
        c,
        "uncompressed",
        || Ok(Instant::now()),
        |begun| Ok(begun.elapsed()),
    );
}

fn by_cpu_time(c: &mut Criterion) {
    bench(c, "uncompressed, CPU time", process_cpu_time, |before| {
        Ok(process_cpu_time()?.saturating_sub(before))
    });
}

/// Measures all steps. `begin` and `end` read the clock.
fn bench<B>(
    c: &mut Criterion,
    group: &str,
    begin: impl Fn() -> io::Result<B>,
    end: impl Fn(B) -> io::Result<Duration>,
) {
    let files = files().expect("the layers");
    let layers = layers(&files).expect("the layers can be inflated");
    let bytes: u64 = layers.iter().map(|one| one.compressed.len() as u64).sum();
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes(bytes));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, step) in STEPS {
        for threads in [1, 2].into_iter().filter_map(NonZeroUsize::new) {
            let id = BenchmarkId::new(name, format!("{threads} threads"));
            let run = || {
                let start = begin()?;
                on_threads(threads, &layers, step)?;
                end(start)
            };
            group.bench_function(id, |b| {
                b.iter_custom(|count| {
                    let took = (0..count).map(|_| run()).sum::<io::Result<Duration>>();
                    took.expect("it works")
                });
            });
        }
    }
}

criterion_group!(benches, by_the_clock, by_cpu_time);
criterion_main!(benches);
