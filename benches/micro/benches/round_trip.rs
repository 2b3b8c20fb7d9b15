//! The round trip of a cheap request through the actor, compared with a bare loop that sends and receives.

#![allow(clippy::expect_used, reason = "a benchmark may fail this way")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use longshore::{ConnectionOptions, ImageProxy};
use longshore_micro::{PACKET_BYTES, proxy};
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::runtime::{Builder, Runtime};

const CALLERS: [u64; 3] = [1, 16, 1000];

/// The packet that `open_image_optional` sends. The answer is 0, so nothing has to be released.
const REQUEST: &[u8] = br#"{"method":"OpenImageOptional","args":["x:"]}"#;

fn bare(c: &mut Criterion) {
    let (socket, _written) = proxy(Arc::from([])).expect("a socket");
    let mut packet = vec![0; PACKET_BYTES];
    c.bench_function("round trip/bare", |b| {
        b.iter(|| {
            send(socket.as_raw_fd(), REQUEST, MsgFlags::MSG_NOSIGNAL).expect("sent");
            recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).expect("received")
        });
    });
}

fn actor(c: &mut Criterion) {
    let one = Builder::new_current_thread().enable_all().build();
    let many = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    for (name, runtime) in [("current thread", one), ("two workers", many)] {
        let runtime = runtime.expect("a runtime");
        let mut group = c.benchmark_group(format!("round trip/{name}"));
        for callers in CALLERS {
            let (socket, _written) = proxy(Arc::from([])).expect("a socket");
            let connecting = ImageProxy::connect(socket, ConnectionOptions::default());
            let proxy = runtime.block_on(connecting).expect("connected");
            group.bench_function(BenchmarkId::from_parameter(callers), |b| {
                b.iter_custom(|calls| call(&runtime, &proxy, callers, calls));
            });
        }
    }
}

/// The duration of this many calls, made by this many callers at the same time.
fn call(runtime: &Runtime, proxy: &ImageProxy, callers: u64, calls: u64) -> Duration {
    let each = calls.div_ceil(callers);
    let tasks = (0..callers).map(|_| {
        let proxy = proxy.clone();
        runtime.spawn(async move {
            for _ in 0..each {
                let none = proxy.open_image_optional("x:").await.expect("an answer");
                assert!(none.is_none());
            }
        })
    });
    let begun = Instant::now();
    let done = runtime.block_on(async { join_all(tasks).await });
    let took = begun.elapsed();
    for task in done {
        task.expect("no panic");
    }
    // Callers make whole calls, perhaps a few more than requested.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    took.mul_f64(calls as f64 / (each * callers) as f64)
}

criterion_group!(benches, bare, actor);
criterion_main!(benches);
