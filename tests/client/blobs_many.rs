//! Many open blobs in one proxy.

use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use test_support::fixture::read_all;
use test_support::image::TestImage;
use test_support::leaks::run;
use test_support::memory_proxy::{Leftover, MemoryProxy};
use test_support::peer::Framing;
use test_support::{noise, within_bound};

const BLOBS: usize = 2000;

/// The limit of open files that the test needs. Both ends of the two pipes of each raw blob are in this process.
const DESCRIPTORS: u64 = 4 * BLOBS as u64 + 200;

fn raise_limit() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= DESCRIPTORS, "`ulimit -Hn` must be {DESCRIPTORS}");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(DESCRIPTORS), hard).unwrap();
}

#[test]
fn two_thousand_blobs_are_open_at_once_and_all_are_read() {
    raise_limit();
    for framing in Framing::BOTH {
        run(async move {
            let mut image = TestImage::with_layers(&[1]);
            let mut layer = image.layers.pop().unwrap();
            layer.bytes = noise(20_000, 1);
            layer.digest = test_support::sha256(&layer.bytes);
            image.layers.push(layer.clone());
            let (proxy, server) =
                MemoryProxy::connected(framing.version(), &[("x:", &image)]).await;
            let opened = proxy.open_image("x:").await.unwrap();
            let gets = (0..BLOBS).map(|_| proxy.get_blob(&opened, &layer.digest, layer.size()));
            let blobs = within_bound(join_all(gets)).await;
            let readers: Vec<_> = blobs
                .into_iter()
                .map(|blob| {
                    let mut blob = blob.unwrap();
                    tokio::spawn(async move {
                        let length = read_all(&mut blob).await.unwrap().len();
                        within_bound(blob.finish()).await.unwrap();
                        length
                    })
                })
                .collect();
            for length in join_all(readers).await {
                assert_eq!(length.unwrap(), layer.bytes.len());
            }
            drop((opened, proxy));
            assert_eq!(server.ended().await, Leftover::NOTHING, "{framing:?}");
        });
    }
}
