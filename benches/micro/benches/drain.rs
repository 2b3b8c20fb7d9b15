//! Copies from a pipe into a file and computes the digest, in several ways. They are compared with a copy
//! without a digest, and with a digest without a pipe. The time and the CPU time are measured, without those of
//! the thread that fills the pipe.
//!
//! The file is in `/dev/shm`, or in the folder that `$BENCH_FOLDER` names.

#![allow(clippy::expect_used, reason = "a benchmark may fail this way")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use longshore::internals::ReadBuffer;
use longshore::{ConnectionOptions, ImageProxy};
use longshore_micro::{full_pipe, process_cpu_time, proxy};
use memmap2::{Mmap, MmapOptions};
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::unistd::pipe2;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, Runtime};

const BYTES: usize = 64 << 20;

const KIB: usize = 1024;
const PIPE_BYTES: [usize; 3] = [64 * KIB, 512 * KIB, 1024 * KIB];

/// The size of the library's buffers.
const BUFFER_BYTES: usize = 512 * KIB;

const PAGE: usize = 4096;

type Digest = [u8; 32];

/// Drains a pipe of the given capacity into a file. Returns the digest, if it computes one.
type Strategy = fn(&File, &File, usize) -> io::Result<Option<Digest>>;

const STRATEGIES: [(&str, Strategy); 8] = [
    ("copy, no digest", copy),
    ("splice, no digest", splice_only),
    ("read, hash", read_hash),
    ("read, hash, write", read_hash_write),
    ("read 16 bytes into a page, hash, write", read_unaligned),
    ("splice, read back, hash", splice_read_back),
    ("splice, map, hash", splice_map),
    ("tee, splice, read, hash", tee_splice),
];

fn copy(pipe: &File, file: &File, _: usize) -> io::Result<Option<Digest>> {
    read_each(pipe, |bytes| (&*file).write_all(bytes))?;
    Ok(None)
}

fn splice_only(pipe: &File, file: &File, pipe_bytes: usize) -> io::Result<Option<Digest>> {
    splice_each(pipe, file, pipe_bytes, |_, _| Ok(()))?;
    Ok(None)
}

fn read_hash(pipe: &File, _: &File, _: usize) -> io::Result<Option<Digest>> {
    let mut hasher = Sha256::new();
    read_each(pipe, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(Some(hasher.finalize().into()))
}

/// Reads, hashes and writes as the library does, on one thread.
fn read_hash_write(pipe: &File, file: &File, _: usize) -> io::Result<Option<Digest>> {
    let mut hasher = Sha256::new();
    read_each(pipe, |bytes| {
        hasher.update(bytes);
        (&*file).write_all(bytes)
    })?;
    Ok(Some(hasher.finalize().into()))
}

/// Reads, hashes and writes with a buffer that begins where glibc's large allocations begin.
fn read_unaligned(mut pipe: &File, mut file: &File, _: usize) -> io::Result<Option<Digest>> {
    let mut hasher = Sha256::new();
    let mut memory = ReadBuffer::new(BUFFER_BYTES + 2 * PAGE);
    let start = memory.as_ptr().align_offset(PAGE) + 16;
    let buffer = &mut memory[start..][..BUFFER_BYTES];
    while let count @ 1.. = pipe.read(buffer)? {
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
    }
    Ok(Some(hasher.finalize().into()))
}

fn splice_read_back(pipe: &File, file: &File, pipe_bytes: usize) -> io::Result<Option<Digest>> {
    let mut hasher = Sha256::new();
    let mut buffer = ReadBuffer::new(pipe_bytes);
    splice_each(pipe, file, pipe_bytes, |at, count| {
        let bytes = &mut buffer[..count];
        file.read_exact_at(bytes, at)?;
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(Some(hasher.finalize().into()))
}

fn splice_map(pipe: &File, file: &File, pipe_bytes: usize) -> io::Result<Option<Digest>> {
    splice_each(pipe, file, pipe_bytes, |_, _| Ok(()))?;
    let mapped = map(file)?;
    Ok(Some(Sha256::digest(&mapped).into()))
}

#[expect(unsafe_code, reason = "nobody else has this file open")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file is unnamed and ours, and not written to while it is mapped.
    unsafe { MmapOptions::new().populate().map(file) }
}

fn tee_splice(pipe: &File, file: &File, pipe_bytes: usize) -> io::Result<Option<Digest>> {
    let (twin, twin_writer): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC)?;
    let size = i32::try_from(pipe_bytes).map_err(io::Error::other)?;
    fcntl(&twin, FcntlArg::F_SETPIPE_SZ(size))?;
    let mut twin = File::from(twin);
    let mut hasher = Sha256::new();
    let mut buffer = ReadBuffer::new(pipe_bytes);
    loop {
        let count = tee(pipe, &twin_writer, pipe_bytes, SpliceFFlags::empty())?;
        if count == 0 {
            return Ok(Some(hasher.finalize().into()));
        }
        let mut left = count;
        while left > 0 {
            left -= splice(pipe, None, file, None, left, SpliceFFlags::empty())?;
        }
        let bytes = &mut buffer[..count];
        twin.read_exact(bytes)?;
        hasher.update(bytes);
    }
}

fn read_each(mut pipe: &File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = ReadBuffer::new(BUFFER_BYTES);
    while let count @ 1.. = pipe.read(&mut buffer)? {
        each(&buffer[..count])?;
    }
    Ok(())
}

/// Splices everything, and passes the place of each piece to `then`.
fn splice_each(
    pipe: &File,
    file: &File,
    pipe_bytes: usize,
    mut each: impl FnMut(u64, usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    loop {
        let count = splice(pipe, None, file, None, pipe_bytes, SpliceFFlags::empty())?;
        if count == 0 {
            return Ok(());
        }
        each(at, count)?;
        at += count as u64;
    }
}

/// Reads a blob through the library, from a proxy that sends it at once, and writes it as `OciLayout` does:
/// one of two buffers is filled while a blocking thread writes the other.
async fn with_library(proxy: &ImageProxy, digest: &str, file: File) -> io::Result<File> {
    let failed = |error: longshore::Error| io::Error::other(error);
    let digest = digest.parse().map_err(io::Error::other)?;
    let image = proxy.open_image("x:").await.map_err(failed)?;
    let blob = proxy.get_blob(&image, &digest, BYTES as u64).await;
    let mut blob = blob.map_err(failed)?;
    let mut filling = ReadBuffer::new(BUFFER_BYTES);
    let idle = (file, ReadBuffer::new(BUFFER_BYTES));
    let mut writing = tokio::task::spawn_blocking(move || Ok::<_, io::Error>(idle));
    loop {
        let mut filled = 0;
        while filled < BUFFER_BYTES {
            match blob.read(&mut filling[filled..]).await? {
                0 => break,
                count => filled += count,
            }
        }
        let (mut file, written) = writing.await.map_err(io::Error::other)??;
        if filled == 0 {
            blob.finish().await.map_err(failed)?;
            return Ok(file);
        }
        let full = std::mem::replace(&mut filling, written);
        writing = tokio::task::spawn_blocking(move || {
            file.write_all(&full[..filled])?;
            Ok((file, full))
        });
    }
}

fn wall_time(c: &mut Criterion) {
    bench(c, "drain", |run| {
        let begun = Instant::now();
        let done = run()?;
        let took = begun.elapsed();
        drop(done.file);
        Ok(took)
    });
}

fn cpu_time(c: &mut Criterion) {
    bench(c, "drain, CPU time", |run| {
        let before = process_cpu_time()?;
        let done = run()?;
        let took = process_cpu_time()?.saturating_sub(before + done.others);
        drop(done.file);
        Ok(took)
    });
}

/// The result of a run.
#[derive(Debug, Default)]
struct Done {
    /// The file, which must be closed, and its memory freed, outside of the measured time.
    file: Option<File>,
    /// The CPU time of the thread that filled the pipe.
    others: Duration,
}

/// Measures something. `measure` runs it once.
fn bench(
    c: &mut Criterion,
    group: &str,
    measure: impl Fn(&mut dyn FnMut() -> io::Result<Done>) -> io::Result<Duration>,
) {
    let bytes: Arc<[u8]> = noise().into();
    let expected: Digest = Sha256::digest(&bytes).into();
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.sample_size(10);
    let times = |count: u64, run: &mut dyn FnMut() -> io::Result<Done>| {
        let measured = (0..count)
            .map(|_| measure(run))
            .sum::<io::Result<Duration>>();
        measured.expect("it works")
    };
    group.bench_function("sha256 of memory", |b| {
        b.iter_custom(|count| {
            times(count, &mut || {
                assert!(Sha256::digest(&bytes)[..] == expected);
                Ok(Done::default())
            })
        });
    });
    for (name, strategy) in STRATEGIES {
        for pipe_bytes in PIPE_BYTES {
            let id = BenchmarkId::new(name, format!("{} KiB", pipe_bytes / KIB));
            group.bench_function(id, |b| {
                b.iter_custom(|count| {
                    times(count, &mut || {
                        let file = tempfile::tempfile_in(folder())?;
                        let (pipe, filling) = full_pipe(Arc::clone(&bytes), pipe_bytes)?;
                        let digest = strategy(&pipe, &file, pipe_bytes)?;
                        assert!(digest.is_none_or(|digest| digest == expected));
                        let others = filling.join().expect("no panic")?;
                        let file = Some(file);
                        Ok(Done { file, others })
                    })
                });
            });
        }
    }
    let runtimes: [(&str, io::Result<Runtime>); 2] = [
        (
            "current thread",
            Builder::new_current_thread().enable_all().build(),
        ),
        (
            "many threads",
            Builder::new_multi_thread().enable_all().build(),
        ),
    ];
    let digest = digest_text(&expected);
    for (name, runtime) in runtimes {
        let runtime = runtime.expect("a runtime");
        let (socket, written) = proxy(Arc::clone(&bytes)).expect("a socket");
        let connecting = ImageProxy::connect(socket, ConnectionOptions::default());
        let proxy = runtime.block_on(connecting).expect("connected");
        group.bench_function(BenchmarkId::new("the library", name), |b| {
            b.iter_custom(|count| {
                times(count, &mut || {
                    let file = tempfile::tempfile_in(folder())?;
                    let file = runtime.block_on(with_library(&proxy, &digest, file))?;
                    let others = written.recv().map_err(io::Error::other)?;
                    let file = Some(file);
                    Ok(Done { file, others })
                })
            });
        });
    }
}

fn digest_text(digest: &Digest) -> String {
    use std::fmt::Write as _;
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn folder() -> PathBuf {
    std::env::var_os("BENCH_FOLDER").map_or("/dev/shm".into(), PathBuf::from)
}

fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        // The xorshift64 generator.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(BYTES / 8).flatten().collect()
}

criterion_group!(benches, wall_time, cpu_time);
criterion_main!(benches);
