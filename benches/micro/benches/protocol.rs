//! The cost of a call without its transport: to encode it, and to parse the reply.

#![allow(clippy::expect_used, reason = "a benchmark may fail this way")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use longshore::internals::Conversation;

fn protocol(c: &mut Criterion) {
    let mut conversation = Conversation::new().expect("a conversation");
    c.bench_function("protocol/encode GetRawBlob", |b| {
        b.iter(|| conversation.encode());
    });
    c.bench_function("protocol/GetRawBlob and its reply", |b| {
        b.iter(|| conversation.get_blob().expect("granted"));
    });
    c.bench_function("protocol/OpenImage and its reply", |b| {
        b.iter(|| conversation.open_image().expect("granted"));
    });
}

criterion_group!(benches, protocol);
criterion_main!(benches);
