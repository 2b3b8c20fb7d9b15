use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const IMAGE: &str = "docker://a/b:c";

fn layer(number: usize, digest: &str) -> Layer<'_> {
    Layer {
        image: 0,
        number,
        digest,
        size: 100,
    }
}

/// A model of a pull of which one image is open.
fn opened() -> Model {
    let mut model = Model::new();
    model.proxy_started(ms(1), 0);
    model.document_requested(ms(10), 0, (0, IMAGE), Document::Manifest);
    model.document_answered(ms(30), 0, 0, Document::Manifest, None);
    model.image_opened(ms(30), 0, IMAGE);
    model
}

/// Fetches a blob: asked for at `begin`, with times of 10 ms for each phase.
fn fetch(model: &mut Model, begin: u64, proxy: usize, number: usize, digest: &str) {
    model.blob_requested(ms(begin), proxy, &layer(number, digest));
    model.blob_answered(ms(begin + 10), digest);
    model.blob_bytes(ms(begin + 15), digest, 60);
    model.blob_bytes(ms(begin + 20), digest, 100);
    model.blob_verified(ms(begin + 30), digest, 100);
}

#[test]
fn a_blob_has_the_phases_that_it_went_through() {
    let mut model = opened();
    model.blob_queued(ms(31));
    fetch(&mut model, 40, 0, 0, "a");
    model.image_pulled(ms(80), 0, IMAGE);
    let picture = model.finish(ms(90));
    let [document, blob] = &picture.spans[..] else {
        panic!("{picture:?}");
    };
    assert_eq!(document.phases(), [(Phase::Document, ms(10), ms(30))]);
    let phases = [
        (Phase::Wait, ms(40), ms(50)),
        (Phase::Receive, ms(50), ms(60)),
        (Phase::Store, ms(60), ms(70)),
    ];
    assert_eq!(blob.phases(), phases);
    assert_eq!(&*blob.image, IMAGE);
    assert_eq!(blob.read, 100);
    assert!(picture.totals.is_complete());
    let expected = Totals {
        duration: ms(90),
        images: 1,
        images_opened: 1,
        images_pulled: 1,
        queued: 1,
        fetched: 1,
        fetched_bytes: 100,
        proxies: 1,
        most_at_once: 1,
        wait: ms(10),
        receive: ms(10),
        store: ms(10),
        ..Totals::default()
    };
    assert_eq!(picture.totals, expected);
    let (_, rates) = picture.throughput.rates(ms(90), 1);
    assert!((rates[0] - 100.0 / 0.095).abs() < 1.0, "{rates:?}");
}

#[test]
fn concurrent_blobs_have_separate_lanes_which_later_blobs_reuse() {
    let mut model = opened();
    for (at, digest) in [(40, "a"), (41, "b")] {
        model.blob_requested(ms(at), 0, &layer(0, digest));
    }
    model.blob_requested(ms(42), 7, &layer(0, "c"));
    model.blob_verified(ms(50), "a", 100);
    model.blob_requested(ms(51), 0, &layer(0, "d"));
    let picture = model.finish(ms(60));
    let lane_of = |wanted: &str| {
        let is_it =
            |span: &&Span| matches!(&span.what, What::Layer { digest, .. } if &**digest == wanted);
        let span = picture.spans.iter().find(is_it).expect("a span");
        (span.proxy, span.lane)
    };
    let expected = [("a", 0, 0), ("b", 0, 1), ("c", 7, 0), ("d", 0, 0)];
    for (digest, proxy, lane) in expected {
        assert_eq!(lane_of(digest), (proxy, Some(lane)), "{digest}");
    }
    let lanes: Vec<_> = picture
        .proxies
        .iter()
        .map(|proxy| (proxy.number, proxy.lanes))
        .collect();
    assert_eq!(lanes, [(0, 2), (7, 1)]);
    assert_eq!(picture.totals.most_at_once, 3);
}

#[test]
fn a_stall_and_the_try_that_it_ended_are_distinguished() {
    let mut model = opened();
    model.blob_requested(ms(40), 0, &layer(3, "a"));
    model.blob_answered(ms(50), "a");
    model.blob_bytes(ms(60), "a", 10);
    model.blob_bytes(ms(2060), "a", 20);
    model.blob_failed(ms(7060), "a", "stalled", Some(ms(500)));
    model.blob_requested(ms(7560), 0, &layer(3, "a"));
    let picture = model.finish(ms(7600));
    let [first, second] = &picture.spans[1..] else {
        panic!("{picture:?}");
    };
    let phases = [
        (Phase::Wait, ms(40), ms(50)),
        (Phase::Receive, ms(50), ms(60)),
        (Phase::Stall, ms(60), ms(2060)),
        (Phase::Stall, ms(2060), ms(7060)),
    ];
    assert_eq!(first.phases(), phases);
    assert_eq!(first.outcome, failed("stalled", Some(ms(500))));
    assert_eq!((first.failed_before, second.failed_before), (0, 1));
    assert_eq!(second.outcome, Outcome::Unfinished);
    assert_eq!(second.phases(), [(Phase::Wait, ms(7560), ms(7600))]);
    assert_eq!(picture.failures, std::slice::from_ref(first));
    assert_eq!(picture.slowest[0], *first);
    assert_eq!(picture.totals.stall, ms(7000));
    // It was tried again, so nothing has failed for good. But nothing is complete.
    assert_eq!(picture.totals.failure, None);
    assert!(!picture.totals.is_complete());
}

#[test]
fn missing_byte_counts_change_no_total() {
    let mut model = opened();
    model.blob_requested(ms(40), 0, &layer(0, "a"));
    model.blob_answered(ms(50), "a");
    model.blob_verified(ms(60), "a", 100);
    let picture = model.finish(ms(60));
    assert_eq!(picture.spans[1].read, 100);
    assert_eq!(
        picture.spans[1].phases().last(),
        Some(&(Phase::Receive, ms(50), ms(60)))
    );
}

#[test]
fn spans_end_with_their_proxy() {
    let mut model = opened();
    model.blob_requested(ms(40), 0, &layer(0, "a"));
    model.document_requested(ms(41), 0, (0, IMAGE), Document::Config);
    model.proxy_ended(ms(50), 0, Some("killed"));
    let picture = model.finish(ms(60));
    for span in &picture.spans[1..] {
        assert_eq!((span.end, &span.outcome), (ms(50), &failed("killed", None)));
    }
    let proxy = &picture.proxies[0];
    assert_eq!(
        (proxy.begin, proxy.asked, proxy.end),
        (ms(1), Some(ms(10)), Some(ms(50)))
    );
    assert_eq!(proxy.reason.as_deref(), Some("killed"));
    assert_eq!(picture.totals.failed_tries, 2);
}

#[test]
fn a_blob_has_one_running_span_when_another_proxy_is_asked_for_it() {
    let mut model = opened();
    model.blob_requested(ms(40), 0, &layer(0, "a"));
    fetch(&mut model, 50, 1, 0, "a");
    let picture = model.finish(ms(100));
    let spans = picture.spans[1..].iter();
    let ends: Vec<_> = spans
        .map(|span| (span.proxy, span.end, span.has_failed()))
        .collect();
    assert_eq!(ends, [(0, ms(50), true), (1, ms(80), false)]);
}

#[test]
fn an_image_that_fails_is_named_with_its_reason() {
    let mut model = Model::new();
    model.document_requested(ms(10), 0, (4, "docker://x/y"), Document::Manifest);
    model.document_answered(ms(20), 0, 4, Document::Manifest, Some("no such image"));
    model.image_failed(ms(21), 4, "docker://x/y", "no such image");
    model.document_requested(ms(22), 1, (4, "docker://x/y"), Document::Manifest);
    let picture = model.finish(ms(30));
    // A proxy that is asked for it later does not make it another image.
    let expected = Image {
        name: Arc::from("docker://x/y"),
        asked: Some(ms(10)),
        opened: None,
        complete: None,
        failed: Some((ms(21), "no such image".into())),
    };
    assert_eq!(picture.images, [expected]);
    assert_eq!(
        (picture.totals.images, picture.totals.images_failed),
        (1, 1)
    );
    assert_eq!(picture.totals.failure.as_deref(), Some("no such image"));
    assert_eq!(picture.failures.len(), 1);
}

#[test]
fn an_index_is_one_pull_of_images_that_are_opened_separately() {
    let mut model = Model::new();
    for image in 0..3 {
        model.image_opened(ms(10), image, &format!("{IMAGE}@{image}"));
    }
    model.image_pulled(ms(20), 0, IMAGE);
    let picture = model.finish(ms(20));
    assert!(picture.totals.is_complete());
    assert_eq!(
        (picture.totals.images, picture.totals.images_pulled),
        (3, 1)
    );
    assert!(picture.images.iter().all(|image| image.complete.is_none()));
}

#[test]
fn a_pull_is_complete_only_with_all_requested_images_and_blobs() {
    let stop = |model: &mut Model, step: usize| match step {
        // A proxy that is not needed has an unfinished request. The pull is complete nevertheless.
        0 => {
            model.proxy_started(ms(70), 9);
            model.document_requested(ms(71), 9, (0, IMAGE), Document::Manifest);
        }
        1 => model.blob_queued(ms(70)),
        2 => model.document_requested(ms(71), 0, (1, "other"), Document::Manifest),
        3 => model.image_failed(ms(71), 1, "other", "no"),
        _ => model.blob_failed(ms(71), "b", "no", None),
    };
    for step in 0..5 {
        let mut model = opened();
        model.blob_queued(ms(31));
        fetch(&mut model, 40, 0, 0, "a");
        stop(&mut model, step);
        model.image_pulled(ms(80), 0, IMAGE);
        assert_eq!(
            model.finish(ms(90)).totals.is_complete(),
            step == 0,
            "{step}"
        );
    }
}

#[test]
fn an_empty_pull_has_a_picture() {
    let picture = Model::new().finish(ms(0));
    assert!(picture.spans.is_empty() && picture.proxies.is_empty());
    assert!(!picture.totals.is_complete());
}

#[test]
fn memory_is_bounded_and_joined_or_omitted_spans_are_counted() {
    let mut model = opened();
    let blobs = 3 * MAX_SPANS;
    for number in 0..blobs {
        let begin = 40 + 40 * number as u64;
        fetch(&mut model, begin, number % 3, number, &number.to_string());
        assert!(model.spans.len() <= MAX_SPANS);
    }
    // More proxies than have lanes, and more blobs at once than a proxy has lanes.
    for proxy in 0..MAX_PROXIES + 10 {
        model.proxy_started(ms(10_000_000), proxy);
    }
    for number in 0..MAX_LANES + 5 {
        let digest = format!("more {number}");
        model.blob_requested(ms(10_000_001), 1, &layer(number, &digest));
    }
    fetch(&mut model, 10_000_010, MAX_PROXIES + 3, 0, "unseen");
    let picture = model.finish(ms(11_000_000));
    let counted: usize = picture
        .spans
        .iter()
        .map(|span| match span.what {
            What::Several { count, .. } => count,
            _ => 1,
        })
        .sum();
    assert_eq!(counted, 1 + blobs + MAX_LANES);
    assert_eq!((picture.left_out.proxies, picture.left_out.spans), (10, 6));
    assert!(picture.left_out.joined_below > Duration::ZERO);
    assert_eq!(picture.totals.fetched, blobs + 1);
    assert_eq!(picture.totals.proxies, MAX_PROXIES + 10);
    assert_eq!((picture.slowest.len(), picture.images.len()), (SLOWEST, 1));
}

#[test]
fn a_long_reason_is_shortened() {
    let mut model = opened();
    model.blob_requested(ms(40), 0, &layer(0, "a"));
    model.blob_failed(ms(50), "a", &"\u{e9}".repeat(100_000), None);
    let picture = model.finish(ms(60));
    let Outcome::Failed { reason, .. } = &picture.failures[0].outcome else {
        panic!("{picture:?}");
    };
    assert_eq!(reason.chars().count(), MAX_REASON_CHARS + 1);
}
