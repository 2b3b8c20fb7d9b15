//! The picture of a pull: it is written however the pull ends, and a browser shows it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use roxmltree::{Document, ParsingOptions};
use serde_json::Value;
use test_registry::server::Options;
use test_support::tools::{self, output_of};

use crate::harness::{ImageBuilder, Scratch, Served, newest_skopeo, skopeos, small_image};

const CHROMIUM_SECONDS: &str = "120";

/// The first lines of the tooltips of all spans of a page or an SVG, which must be well-formed XML.
fn spans(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    let xml = Document::parse_with_options(&text, options).unwrap();
    let spans = xml
        .descendants()
        .filter(|node| node.attribute("class") == Some("ls-s"));
    let titles = spans.map(|span| span.first_element_child().unwrap().text().unwrap());
    titles.map(str::to_owned).collect()
}

fn layers(spans: &[String]) -> usize {
    let layers = spans.iter().filter(|span| span.starts_with("layer "));
    layers.count()
}

/// The files of a folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// A folder for pictures, and the option for one.
fn picture(scratch: &Scratch, name: &str) -> (PathBuf, String) {
    let folder = scratch.path("pictures");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    let option = format!("--timeline={}", file.display());
    (file, option)
}

#[test]
#[ignore = "needs skopeo"]
fn each_blob_of_a_pull_is_in_the_page_the_picture_and_the_trace() {
    let (served, image) = Served::image("v1", &small_image(1));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        for name in ["a.html", "a.svg", "a.json"] {
            let (file, option) = picture(&scratch, name);
            let layout = scratch.layout(name);
            let reference = served.reference("v1");
            let pull = scratch.pull(&skopeo, &reference, &layout.tagged("v1"));
            pull.arg(&option).run().succeeded();
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("Not complete"), "{text}");
            if name == "a.json" {
                let trace: Value = serde_json::from_str(&text).unwrap();
                let events = trace["traceEvents"].as_array().unwrap();
                for layer in &image.layers {
                    let digest = layer.digest().to_string();
                    let of_it = events
                        .iter()
                        .filter(|event| event["args"]["digest"] == digest);
                    assert_eq!(of_it.count(), 1, "{text}");
                }
            } else {
                assert_eq!(layers(&spans(&file)), image.layers.len(), "{text}");
                let config = spans(&file)
                    .iter()
                    .filter(|span| span.starts_with("config"))
                    .count();
                assert_eq!(config, 1, "{text}");
            }
        }
        assert_eq!(
            files(&scratch.path("pictures")),
            ["a.html", "a.json", "a.svg"]
        );
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_pull_that_fails_is_drawn_with_the_reason() {
    let (served, _) = Served::image("v1", &small_image(1));
    served.faults(&["blob#1:status=404"]);
    let scratch = Scratch::new();
    let (file, option) = picture(&scratch, "a.svg");
    let layout = scratch.layout("image");
    let skopeo = newest_skopeo();
    let pull = |tag: &str| scratch.pull(&skopeo, &served.reference(tag), &layout.tagged("v1"));
    pull("v1").arg(&option).run().failed(1);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("Not complete: ") && text.contains("a fault that the test asked for"),
        "{text}"
    );
    assert!(
        spans(&file).iter().any(|span| span.contains("failed: ")),
        "{text}"
    );

    // An image that does not exist can't be opened. The new picture replaces the earlier one.
    pull("missing").arg(&option).run().failed(1);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("Not complete") && layers(&spans(&file)) == 0,
        "{text}"
    );

    // If skopeo does not exist, the pull fails. There is a picture all the same, without any request.
    let nowhere = scratch
        .longshore()
        .args(["pull", "--skopeo=/nowhere", &option]);
    nowhere
        .args([&*served.reference("v1"), &*layout.all()])
        .run()
        .failed(1);
    assert_eq!(spans(&file), [""; 0]);
    assert_eq!(files(&scratch.path("pictures")), ["a.svg"]);
}

#[test]
#[ignore = "needs skopeo"]
fn an_interrupted_pull_is_drawn_up_to_its_end() {
    let (served, image) = Served::image("v1", &small_image(1));
    served.faults(&["blob:stall=half"]);
    let scratch = Scratch::new();
    let (file, option) = picture(&scratch, "a.html");
    let layout = scratch.layout("image");
    let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), &layout.all());
    let mut run = pull.arg(&option).start();
    run.wait_until("a layer has been asked for", |_| {
        served.registry.blob_gets(image.layers[0].digest()) > 0
    });
    run.signal(Signal::SIGINT);
    run.end().failed(130);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("Not complete"), "{text}");
    assert!(
        spans(&file).iter().any(|span| span.contains("unfinished")),
        "{text}"
    );
    assert_eq!(files(&scratch.path("pictures")), ["a.html"]);
}

#[test]
#[ignore = "needs skopeo"]
fn a_list_of_images_is_drawn_with_their_names_and_failures() {
    let served = Served::start();
    let mut list = String::new();
    for image in 0..24 {
        served.add(&format!("i{image}"), &small_image(image));
        writeln!(list, "{}", served.reference(&format!("i{image}"))).unwrap();
    }
    writeln!(list, "{}", served.reference("missing")).unwrap();
    let scratch = Scratch::new();
    let (file, option) = picture(&scratch, "a.html");
    fs::write(scratch.path("list"), list).unwrap();
    let pull = scratch
        .longshore()
        .args(["pull", "--tls-verify=false", "--skopeo"]);
    let pull = pull
        .arg(newest_skopeo().path.to_str().unwrap())
        .args(["--from", "list", &option]);
    let run = pull.arg(&scratch.layout("all").all()).run();
    assert_eq!(run.status.code(), Some(1), "{run}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("1 of 25 images failed"), "{text}");
    assert!(text.contains("i23") && text.contains("missing"), "{text}");
    assert_eq!(layers(&spans(&file)), 24 * 3, "{text}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_picture_that_can_not_be_written_fails_after_the_pull() {
    let (served, image) = Served::image("v1", &small_image(1));
    served.faults(&["blob#1:stall=half*1"]);
    let scratch = Scratch::new();
    let (_, option) = picture(&scratch, "a.html");
    let layout = scratch.layout("image");
    let pull = scratch.pull(
        &newest_skopeo(),
        &served.reference("v1"),
        &layout.tagged("v1"),
    );
    let mut run = pull.args([&*option, "--stall-timeout=2s"]).start();
    run.wait_until("the layout is locked", |_| layout.is_written_to(1));
    fs::remove_dir(scratch.path("pictures")).unwrap();
    let run = run.end();
    assert_eq!(run.status.code(), Some(1), "{run}");
    for words in ["the pull is complete", "can't write the timeline", "a.html"] {
        assert!(run.stderr.contains(words), "{run}");
    }
    assert_eq!(layout.tags()["v1"], image.manifest_digest.to_string());
}

/// Has a browser measure a page. The script must set `result`, when the page is complete.
fn measured(scratch: &Scratch, page: &str, script: &str, dark: bool) -> Value {
    let name = format!("measured-{dark}");
    let file = scratch.path(&format!("{name}.html"));
    // The page's own policy forbids every script.
    let policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>";
    assert_eq!(page.matches(policy).count(), 1);
    let page = page.replace(policy, "");
    let end = format!(
        "<script>addEventListener('load', async () => {{ {script}; \
         document.body.textContent = 'RESULT' + JSON.stringify(result) + 'END' }})</script></body>"
    );
    fs::write(&file, page.replace("</body>", &end)).unwrap();
    let scheme = u8::from(!dark);
    let mut browser = Command::new("timeout");
    browser
        .arg(CHROMIUM_SECONDS)
        .arg(tools::system("chromium"))
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args([
            "--disable-sync",
            "--window-size=1240,1000",
            "--virtual-time-budget=20000",
        ])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--user-data-dir={}", scratch.path(&name).display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", file.display()))
        .env("HOME", scratch.path("home"));
    let dom = String::from_utf8(output_of(&mut browser)).unwrap();
    let result = dom
        .split_once("RESULT")
        .and_then(|(_, rest)| rest.split_once("END"));
    let (result, _) = result.unwrap_or_else(|| panic!("no result in {dom}"));
    serde_json::from_str(
        &result
            .replace("&amp;", "&")
            .replace("&lt;", "<")
            .replace("&gt;", ">"),
    )
    .unwrap()
}

/// Where things are in the window, what colours they have, and how many pixels of each colour the SVG has
/// when it is painted as an image of its own.
const MEASURE: &str = r"
    const box = node => { const b = node.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] };
    const colour = name => getComputedStyle(document.querySelector(name)).fill;
    const svg = document.querySelector('figure svg');
    const all = name => [...svg.querySelectorAll(name)];
    const image = new Image();
    image.src = 'data:image/svg+xml,' + encodeURIComponent(new XMLSerializer().serializeToString(svg));
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const pixels = {};
    for (let at = 0; at < data.length; at += 4) {
        const name = `rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`;
        pixels[name] = (pixels[name] || 0) + 1;
    }
    const colours = {};
    for (const name of ['paper', 'band', 'start', 'document', 'wait', 'receive', 'store'])
        colours[name] = colour('.ls-' + name);
    const result = {
        svg: box(svg), spans: all('.ls-s').map(box), bands: all('.ls-band').map(box),
        texts: all('text').map(text => [text.textContent, ...box(text)]), colours,
        painted: Object.fromEntries(Object.entries(colours).map(([name, rgb]) => [name, pixels[rgb] || 0])),
        wide: document.documentElement.scrollWidth - innerWidth,
    }";

/// The four sides of a box: left, top, right, bottom.
fn sides(value: &Value) -> [f64; 4] {
    let sides: Vec<f64> = value
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    sides.try_into().unwrap()
}

fn is_within(inner: [f64; 4], outer: [f64; 4]) -> bool {
    const ROUNDING: f64 = 1.0;
    inner[0] >= outer[0] - ROUNDING
        && inner[1] >= outer[1] - ROUNDING
        && inner[2] <= outer[2] + ROUNDING
        && inner[3] <= outer[3] + ROUNDING
}

#[test]
#[ignore = "needs skopeo, chromium"]
fn a_browser_shows_each_lane_in_its_place_in_light_and_dark() {
    let delay = Options {
        ttfb: std::time::Duration::from_millis(30),
        ..Options::default()
    };
    let served = Served::with(delay);
    let image = (0..24).fold(ImageBuilder::new(), |image, layer| {
        image.layer_random(300_000, layer)
    });
    served.add("v1", &image);
    let scratch = Scratch::new();
    let (file, option) = picture(&scratch, "a.html");
    let dest = scratch.layout("image").all();
    let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), &dest);
    pull.args([&*option, "--proxies=4", "--workers=8"])
        .run()
        .succeeded();
    let page = fs::read_to_string(&file).unwrap();

    let mut papers = Vec::new();
    for dark in [false, true] {
        let seen = measured(&scratch, &page, MEASURE, dark);
        let svg = sides(&seen["svg"]);
        assert!(
            svg[2] - svg[0] > 1000.0 && svg[3] - svg[1] > 300.0,
            "{seen}"
        );
        assert!(
            seen["wide"].as_f64().unwrap() <= 0.0,
            "wider than the window: {seen}"
        );

        // Four proxies, and each span in the band of one of them.
        let bands: Vec<_> = seen["bands"]
            .as_array()
            .unwrap()
            .iter()
            .map(sides)
            .collect();
        assert_eq!(bands.len(), 4, "{seen}");
        let spans: Vec<_> = seen["spans"]
            .as_array()
            .unwrap()
            .iter()
            .map(sides)
            .collect();
        assert!(spans.len() > 24 + 1, "{seen}");
        for (number, span) in spans.iter().enumerate() {
            assert!(
                bands.iter().any(|band| is_within(*span, *band)),
                "{span:?} in {seen}"
            );
            assert!(
                span[2] - span[0] > 1.0 && span[3] - span[1] > 5.0,
                "{span:?} in {seen}"
            );
            for other in &spans[..number] {
                let apart = span[3] <= other[1] + 0.1
                    || other[3] <= span[1] + 0.1
                    || span[2] <= other[0] + 0.6
                    || other[2] <= span[0] + 0.6;
                assert!(apart, "{span:?} and {other:?} overlap in {seen}");
            }
        }

        // All text is within the picture, and has a size.
        let texts = seen["texts"].as_array().unwrap();
        for text in texts {
            let place = sides(&text.as_array().unwrap()[1..].into());
            assert!(
                is_within(place, svg) && place[2] > place[0],
                "{text} in {seen}"
            );
        }
        for words in ["proxy 3", "wait", "Slowest", "image:v1"] {
            let has = |text: &Value| text[0].as_str().unwrap().contains(words);
            assert!(texts.iter().any(has), "no {words} in {seen}");
        }

        // Each colour differs from the others, and is there when the SVG is painted.
        let colours = seen["colours"].as_object().unwrap();
        let distinct: std::collections::BTreeSet<_> = colours.values().map(Value::as_str).collect();
        assert_eq!(distinct.len(), colours.len(), "{seen}");
        for (name, pixels) in seen["painted"].as_object().unwrap() {
            assert!(pixels.as_u64().unwrap() > 20, "{name} in {seen}");
        }
        papers.push(colours["paper"].clone());
    }
    assert_eq!(papers, ["rgb(255, 255, 255)", "rgb(15, 20, 25)"]);
}
