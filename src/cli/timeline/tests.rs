//! The renderers with invented pulls: every part of a pull is in the picture, in its place, and names stay text.

use std::collections::HashSet;

use roxmltree::{Document as Xml, Node, ParsingOptions};
use serde_json::Value;

use super::geometry::Geometry;
use super::*;

const HOSTILE: &str = "docker://h/<script>alert(1)</script>&\"'\u{202e}\0]]>:x";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Something that happens, at a time.
type Fact = Box<dyn Fn(&mut Model, Duration)>;

/// A pull of `images` images, each with `layers` layers, by `proxies` proxies. The second layer of each image stalls, and
/// is then fetched by another proxy.
fn pull(images: usize, layers: usize, proxies: usize, name: &'static str) -> Picture {
    let mut facts: Vec<(Duration, Fact)> = Vec::new();
    let mut add = |at, fact: Fact| facts.push((ms(at), fact));
    let name = move |image: usize| format!("{name}{image}");
    let end = 3000 + 20 * (images * layers) as u64;
    for proxy in 0..proxies {
        let begin = proxy as u64;
        add(
            begin,
            Box::new(move |model, at| model.proxy_started(at, proxy)),
        );
    }
    for image in 0..images {
        let proxy = image % proxies;
        let begin = 200 + image as u64;
        let is = Document::Manifest;
        let ask = move |model: &mut Model, at| {
            model.document_requested(at, proxy, (image, &name(image)), is);
        };
        let open = move |model: &mut Model, at| {
            model.document_answered(at, proxy, image, is, None);
            model.image_opened(at, image, &name(image));
            (0..layers).for_each(|_| model.blob_queued(at));
        };
        add(begin, Box::new(ask));
        add(begin + 100, Box::new(open));
        add(
            end,
            Box::new(move |model, at| model.image_pulled(at, image, &name(image))),
        );
    }
    for number in 0..images * layers {
        let (image, layer) = (number / layers, number % layers);
        let mut proxy = number % proxies;
        let mut begin = 600 + 20 * number as u64;
        let size = 1_000_000 + 1_000 * layer as u64;
        let digest = move || format!("sha256:{number:064x}");
        let bytes = move |read| move |model: &mut Model, at| model.blob_bytes(at, &digest(), read);
        let answer = move |model: &mut Model, at| model.blob_answered(at, &digest());
        let ask = move |proxy| {
            move |model: &mut Model, at| {
                let digest = &digest();
                let layer = Layer {
                    image,
                    number: layer,
                    digest,
                    size,
                };
                model.blob_requested(at, proxy, &layer);
            }
        };
        if layer == 1 {
            let wait = Some(ms(100));
            let fail = move |model: &mut Model, at| model.blob_failed(at, &digest(), HOSTILE, wait);
            add(begin, Box::new(ask(proxy)));
            add(begin + 40, Box::new(answer));
            add(begin + 50, Box::new(bytes(size / 2)));
            add(begin + 1050, Box::new(fail));
            (begin, proxy) = (begin + 1150, (proxy + 1) % proxies);
        }
        add(begin, Box::new(ask(proxy)));
        add(begin + 40, Box::new(answer));
        add(begin + 60, Box::new(bytes(size)));
        add(
            begin + 70,
            Box::new(move |model, at| model.blob_verified(at, &digest(), size)),
        );
    }
    for proxy in 0..proxies / 2 {
        let reason = (proxy == 0).then_some("killed by <b>");
        add(
            end,
            Box::new(move |model, at| model.proxy_ended(at, proxy, reason)),
        );
    }
    facts.sort_by_key(|(at, _)| *at);
    let mut model = Model::new();
    for (at, fact) in facts {
        fact(&mut model, at);
    }
    model.finish(ms(end + 10))
}

/// Pulls from nothing to one that is larger than can be shown in full.
fn pulls() -> Vec<(&'static str, Picture)> {
    vec![
        ("nothing", Model::new().finish(ms(0))),
        ("one layer", pull(1, 1, 1, "docker://h/a:")),
        ("8 layers", pull(1, 8, 3, "docker://h/a:")),
        ("400 layers", pull(1, 400, 16, "docker://h/a:")),
        ("24 images", pull(24, 24, 16, "docker://quay.io/a/b/c:")),
        ("200 proxies", pull(200, 1, 200, "oci:folder:")),
        ("many spans", pull(1, 3_000, 2, "docker://h/a:")),
        ("hostile names", pull(3, 3, 2, HOSTILE)),
    ]
}

fn has_class(node: &Node, class: &str) -> bool {
    let classes = node.attribute("class").unwrap_or_default();
    classes.split(' ').any(|one| one == class)
}

fn parsed(text: &str) -> Xml<'_> {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    Xml::parse_with_options(text, options).expect("XML")
}

fn number(node: &Node, name: &str) -> f64 {
    let text = node.attribute(name).expect(name);
    text.parse().expect("a number")
}

/// The left, top and right of a path like `M1 2H3...`.
fn left_top_right(path: &Node) -> (f64, f64, f64) {
    let d = path.attribute("d").expect("a path");
    let (left, rest) = d[1..].split_once(' ').expect("a place");
    let (top, rest) = rest.split_once('H').expect("a width");
    let right = rest.split_once('v').expect("a height").0;
    let parse = |text: &str| text.parse().expect("a number");
    (parse(left), parse(top), parse(right))
}

#[test]
fn pictures_are_well_formed_and_everything_is_within_them() {
    for (what, picture) in pulls() {
        let text = render(&picture, Format::Svg, Duration::ZERO).expect(what);
        let xml = parsed(&text);
        let root = xml.root_element();
        let (width, height) = (number(&root, "width"), number(&root, "height"));
        let mut lanes: HashSet<(String, String)> = HashSet::new();
        for span in root.descendants().filter(|node| has_class(node, "ls-s")) {
            for path in span
                .children()
                .filter(|node| node.tag_name().name() == "path")
            {
                let (left, top, right) = left_top_right(&path);
                assert!(left <= right + 0.05, "{what}: {path:?}");
                assert!(
                    (0.0..=width).contains(&left) && right <= width,
                    "{what}: {path:?}"
                );
                assert!((0.0..height).contains(&top), "{what}: {path:?}");
                if !has_class(&path, "ls-unfinished") {
                    let place = (format!("{left:.1} {right:.1}"), format!("{top:.1}"));
                    assert!(
                        lanes.insert(place) || right - left < 1.0,
                        "{what}: {path:?} twice"
                    );
                }
            }
        }
        for label in root
            .descendants()
            .filter(|node| node.tag_name().name() == "text")
        {
            let (x, y) = (number(&label, "x"), number(&label, "y"));
            assert!(
                (0.0..=width).contains(&x) && (0.0..=height).contains(&y),
                "{what}"
            );
        }
    }
}

#[test]
fn every_blob_has_a_span_with_its_details() {
    let picture = pull(24, 24, 16, "docker://quay.io/a/b/c:");
    let html = render(&picture, Format::Html, Duration::ZERO).expect("a page");
    let xml = parsed(&html);
    let titles: Vec<_> = (xml.descendants())
        .filter(|node| has_class(node, "ls-s"))
        .filter_map(|span| span.first_element_child()?.text())
        .collect();
    // 24 images, their layers, and a failed try of each.
    assert_eq!(titles.len(), 24 + 24 * 24 + 24);
    for layer in 0..24 {
        let name = format!("layer {layer} ·");
        let of_layer = titles.iter().filter(|title| title.starts_with(&name));
        assert_eq!(of_layer.count(), if layer == 1 { 48 } else { 24 });
    }
    let retried = titles
        .iter()
        .filter(|title| title.contains("retried after 100 ms"));
    assert_eq!(retried.count(), 24);
}

#[test]
fn thin_spans_are_joined_so_that_the_file_stays_small() {
    let picture = pull(1, 10_000, 2, "docker://h/a:");
    assert!(picture.spans.len() > 10_000);
    let svg = render(&picture, Format::Svg, Duration::ZERO).expect("a picture");
    let xml = parsed(&svg);
    let spans = xml.descendants().filter(|node| has_class(node, "ls-s"));
    assert!(spans.count() < picture.spans.len());
    assert!(svg.len() < 3_000_000, "{}", svg.len());
}

/// Whether the text fetches nothing, runs nothing, and is text.
fn assert_harmless(what: &str, text: &str) {
    let xml = parsed(text);
    for node in xml.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(
            !["script", "b", "image", "link", "iframe", "use"].contains(&name),
            "{what}: {name}"
        );
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(
                !name.starts_with("on") && name != "href" && name != "src",
                "{what}: {name}"
            );
        }
    }
    assert!(!text.contains("@import"), "{what}");
    for (place, _) in text.match_indices("url(") {
        assert!(text[place..].starts_with("url(#"), "{what}");
    }
}

#[test]
fn pictures_and_pages_load_nothing_and_escape_names() {
    for (what, picture) in pulls() {
        for format in [Format::Svg, Format::Html] {
            let text = render(&picture, format, Duration::ZERO).expect(what);
            assert_harmless(what, &text);
        }
    }
    let picture = pull(1, 3, 2, HOSTILE);
    for format in [Format::Svg, Format::Html] {
        let text = render(&picture, format, Duration::ZERO).expect("a picture");
        let xml = parsed(&text);
        let all: String = xml.descendants().filter_map(|node| node.text()).collect();
        assert!(all.contains("h/<script>alert(1)</script>&\"'\u{fffd}\u{fffd}]]>:x0"));
        assert!(!text.contains('\u{202e}') && !text.contains('\0'));
    }
}

#[test]
fn two_pictures_on_one_axis_can_be_compared() {
    let picture = pull(1, 8, 3, "docker://h/a:");
    let end_of = |axis: u64| Geometry::of(&picture, ms(axis)).x(ms(1000));
    assert!((end_of(0) - end_of(1000)).abs() < 1e-9);
    let (short, long) = (end_of(4000) - geometry::LEFT, end_of(8000) - geometry::LEFT);
    assert!((short - 2.0 * long).abs() < 1e-6);
}

#[test]
fn a_trace_has_each_blob_and_its_phases_within_it() {
    for (what, picture) in pulls() {
        let text = render(&picture, Format::Trace, Duration::ZERO).expect(what);
        let trace: Value = serde_json::from_str(&text).expect(what);
        let events = trace["traceEvents"].as_array().expect("events");
        let slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        let digests = slices
            .iter()
            .filter(|slice| slice["args"]["digest"].is_string());
        let layers = picture.spans.iter();
        let layers = layers.filter(|span| matches!(span.what, picture::What::Layer { .. }));
        assert_eq!(digests.count(), layers.count(), "{what}");
        // On a lane, each slice is within the one before, or begins after it.
        let mut open: Vec<(&Value, &Value, u64, u64)> = Vec::new();
        for slice in slices {
            let begin = slice["ts"].as_u64().expect("a time");
            let end = begin + slice["dur"].as_u64().expect("a duration");
            let place = (&slice["pid"], &slice["tid"]);
            open.retain(|(pid, tid, _, until)| (*pid, *tid) == place && *until > begin);
            if let Some((.., from, until)) = open.last() {
                assert!(*from <= begin && end <= *until, "{what}: {slice}");
            }
            open.push((place.0, place.1, begin, end));
        }
        let named = events
            .iter()
            .filter(|event| event["name"] == "process_name");
        assert_eq!(named.count(), picture.proxies.len() + 1, "{what}");
    }
}

#[test]
fn the_legend_names_only_failures_that_occurred() {
    let names =
        |picture: &Picture| -> Vec<_> { style::legend(picture).map(|entry| entry.name).collect() };
    let usual = [
        "proxy starts",
        "open",
        "wait",
        "receive",
        "verify and store",
    ];
    assert_eq!(names(&pull(1, 1, 1, "a")), usual);
    assert_eq!(names(&pull(1, 2, 1, "a"))[5..], ["stall", "failed try"]);
    assert_eq!(names(&Model::new().finish(ms(0))), [""; 0]);
}
