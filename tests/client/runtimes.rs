//! A proxy belongs to the runtime in which it was made.

use longshore::Error;
use test_support::leaks::run_without;
use test_support::peer::Peer;
use tokio::runtime::{Builder, Runtime};

fn runtime(paused: bool) -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(paused).build().unwrap()
}

#[test]
fn a_proxy_whose_runtime_does_not_run_answers_with_an_error() {
    run_without(|| {
        let its_own = runtime(false);
        let (mut peer, proxy) = its_own.block_on(Peer::connected("0.2.8"));
        let image = its_own.block_on(async {
            let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
            image.unwrap()
        });
        // On the clock of this runtime, no time passes while it waits.
        let another = runtime(true);
        let opened = another.block_on(proxy.open_image("x:"));
        assert!(matches!(opened, Err(Error::RuntimeIdle)), "{opened:?}");
        let closed = another.block_on(proxy.close_image(image));
        assert!(matches!(closed, Err(Error::RuntimeIdle)), "{closed:?}");
        let ended = another.block_on(proxy.clone().finalize());
        assert!(matches!(ended, Err(Error::RuntimeIdle)), "{ended:?}");
        drop((its_own, peer, proxy));
    });
}

#[test]
fn a_proxy_whose_runtime_runs_is_used_from_another_one() {
    run_without(|| {
        let its_own = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (mut peer, proxy) = its_own.block_on(Peer::connected("0.2.8"));
        its_own.spawn(async move {
            peer.opens(1).await;
            peer.lenient();
        });
        let another = runtime(false);
        another.block_on(proxy.open_image("x:")).unwrap();
        drop(proxy);
    });
}
