//! The order of calls: they go out one at a time and in order, replies reach the right caller, and releases
//! go first.

use futures_util::future::join_all;
use longshore::ImageProxy;
use serde_json::{Value, json};
use test_support::leaks::{run, run_single};
use test_support::peer::{Flow, Framing, Peer};
use test_support::{eventually, sha256, within_bound};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

/// Opens an image in a task of its own. The call is queued when this returns.
async fn opening(
    proxy: &ImageProxy,
    reference: &str,
) -> JoinHandle<longshore::Result<longshore::OpenedImage>> {
    let (proxy, reference) = (proxy.clone(), reference.to_owned());
    let task = tokio::spawn(async move { proxy.open_image(&reference).await });
    // On a runtime of one thread, the task sends its request first, and then the actor receives it.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    task
}

#[test]
fn replies_come_in_order_and_each_to_its_own_caller() {
    run_single(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let mut tasks = Vec::new();
        for reference in ["a:", "b:", "c:"] {
            tasks.push(opening(&proxy, reference).await);
        }
        for reference in ["a:", "b:", "c:"] {
            peer.expect("OpenImage", json!([reference])).await;
            peer.refuse(&format!("no {reference}")).await;
        }
        for (task, reference) in tasks.into_iter().zip(["a:", "b:", "c:"]) {
            let error = within_bound(task).await.unwrap().unwrap_err();
            let longshore::Error::Refused {
                method, refusal, ..
            } = &error
            else {
                panic!("{error:?}");
            };
            assert_eq!(*method, "OpenImage");
            assert_eq!(refusal.message, format!("no {reference}"));
            assert!(!error.is_closed());
        }
        peer.end(proxy).await;
    });
}

#[test]
fn one_call_is_in_flight_at_a_time() {
    run_single(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let first = opening(&proxy, "a:").await;
        let second = opening(&proxy, "b:").await;
        peer.expect("OpenImage", json!(["a:"])).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let next = futures_util::FutureExt::now_or_never(peer.next());
        assert_eq!(next, None, "the second call came before the first reply");
        peer.refuse("first").await;
        peer.expect("OpenImage", json!(["b:"])).await;
        peer.refuse("second").await;
        first.await.unwrap().unwrap_err();
        second.await.unwrap().unwrap_err();
        peer.end(proxy).await;
    });
}

#[test]
fn finish_pipe_of_a_drained_blob_overtakes_queued_requests() {
    run_single(async {
        let (mut peer, proxy) = Peer::connected("0.2.6").await;
        let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
        let image = image.unwrap();
        let content = b"the content";
        let digest = sha256(content);
        let (blob, mut flow) = tokio::join!(
            proxy.get_blob(&image, &digest, 11),
            Flow::grant(&mut peer, Framing::Piped, &digest, 11, 11)
        );
        flow.write(content).await;
        // One call is in flight and two are queued before the blob is drained.
        let mut queued = Vec::new();
        for reference in ["a:", "b:", "c:"] {
            queued.push(opening(&proxy, reference).await);
        }
        peer.expect("OpenImage", json!(["a:"])).await;
        let mut blob = blob.unwrap();
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, content);
        let finishing = tokio::spawn(blob.finish());
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        peer.refuse("no").await;
        flow.end(&mut peer, None).await;
        within_bound(finishing).await.unwrap().unwrap();
        for reference in ["b:", "c:"] {
            peer.expect("OpenImage", json!([reference])).await;
            peer.refuse("no").await;
        }
        join_all(queued).await;
        peer.end_with(proxy, vec![image]).await;
    });
}

#[test]
fn close_image_overtakes_queued_requests() {
    run_single(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(5));
        let first = opening(&proxy, "a:").await;
        let second = opening(&proxy, "b:").await;
        drop(image.unwrap());
        peer.expect("OpenImage", json!(["a:"])).await;
        peer.refuse("no").await;
        peer.expect("CloseImage", json!([5])).await;
        peer.reply(Value::Null).await;
        peer.expect("OpenImage", json!(["b:"])).await;
        peer.refuse("no").await;
        first.await.unwrap().unwrap_err();
        second.await.unwrap().unwrap_err();
        peer.end(proxy).await;
    });
}

#[test]
fn grants_of_dropped_callers_are_released_before_queued_requests() {
    run_single(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let leaves = opening(&proxy, "a:").await;
        let second = opening(&proxy, "b:").await;
        peer.expect("OpenImage", json!(["a:"])).await;
        leaves.abort();
        assert!(leaves.await.unwrap_err().is_cancelled());
        peer.reply(json!(5)).await;
        peer.expect("CloseImage", json!([5])).await;
        peer.reply(Value::Null).await;
        peer.expect("OpenImage", json!(["b:"])).await;
        peer.refuse("no").await;
        second.await.unwrap().unwrap_err();
        peer.end(proxy).await;
    });
}

#[test]
fn a_queued_request_of_a_dropped_caller_is_never_sent() {
    run_single(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let first = opening(&proxy, "a:").await;
        let leaves = opening(&proxy, "b:").await;
        let third = opening(&proxy, "c:").await;
        peer.expect("OpenImage", json!(["a:"])).await;
        leaves.abort();
        assert!(leaves.await.unwrap_err().is_cancelled());
        peer.refuse("no").await;
        peer.expect("OpenImage", json!(["c:"])).await;
        peer.refuse("no").await;
        first.await.unwrap().unwrap_err();
        third.await.unwrap().unwrap_err();
        peer.end(proxy).await;
    });
}

#[test]
fn each_of_ten_thousand_requests_gets_its_own_answer() {
    const TASKS: usize = 100;
    const EACH: usize = 100;
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let proxy = proxy.clone();
                tokio::spawn(async move {
                    for call in 0..EACH {
                        let reference = format!("{task}/{call}:");
                        let error = proxy.open_image(&reference).await.unwrap_err();
                        let longshore::Error::Refused { refusal, .. } = error else {
                            panic!("{error:?}");
                        };
                        assert_eq!(refusal.message, reference);
                    }
                })
            })
            .collect();
        for _ in 0..TASKS * EACH {
            let args = peer.call("OpenImage").await;
            peer.refuse(args[0].as_str().unwrap()).await;
        }
        for task in join_all(tasks).await {
            task.unwrap();
        }
        peer.end(proxy).await;
    });
}

#[test]
fn requests_dropped_at_random_disturb_no_other() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let tasks: Vec<_> = (0..500)
            .map(|number: usize| {
                let proxy = proxy.clone();
                tokio::spawn(async move {
                    let reference = format!("{number}:");
                    let error = proxy.open_image(&reference).await.unwrap_err();
                    let longshore::Error::Refused { refusal, .. } = error else {
                        panic!("{error:?}");
                    };
                    assert_eq!(refusal.message, reference);
                })
            })
            .collect();
        let leave = async {
            for task in tasks.iter().step_by(3) {
                task.abort();
                tokio::task::yield_now().await;
            }
            eventually(|| tasks.iter().all(JoinHandle::is_finished)).await;
        };
        let answer = async {
            loop {
                let args = peer.call("OpenImage").await;
                peer.refuse(args[0].as_str().unwrap()).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = leave => {}
            () = answer => {}
        }
        for task in tasks {
            match task.await {
                Ok(()) => {}
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        }
        peer.check_idle(&proxy).await;
        peer.end(proxy).await;
    });
}
