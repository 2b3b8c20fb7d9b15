//! `longshore list-tags` asks a registry for the tags of a repository.

use serde_json::json;

use crate::harness::{Longshore, Scratch, Served, Skopeo, skopeos, small_image};
use test_registry::server::Options;

fn list_tags(scratch: &Scratch, skopeo: &Skopeo, repository: &str) -> Longshore {
    let command = scratch.longshore();
    let command = command.args(["list-tags", "--tls-verify=false", "--skopeo"]);
    command.args([skopeo.path.to_str().unwrap(), repository])
}

/// The repository of the images of a registry.
fn repository(served: &Served) -> String {
    let image = served.reference("v1");
    let (name, _) = image.rsplit_once(':').unwrap();
    name.to_owned()
}

#[test]
#[ignore = "needs skopeo"]
fn tags_are_printed_one_a_line_or_as_json() {
    let served = Served::with(Options::default());
    for (tag, seed) in [("v1", 1), ("v2", 2), ("latest", 3)] {
        served.add(tag, &small_image(seed));
    }
    let repository = repository(&served);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let run = list_tags(&scratch, &skopeo, &repository).run().succeeded();
        assert_eq!(run.stderr, "");
        let mut tags: Vec<&str> = run.stdout.lines().collect();
        let mut report = list_tags(&scratch, &skopeo, &repository).report();
        assert_eq!(report["tags"].take(), json!(tags));
        assert_eq!(report, json!({ "repository": repository, "tags": null }));
        tags.sort_unstable();
        assert_eq!(tags, ["latest", "v1", "v2"]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_refusal_of_the_registry_is_reported() {
    let (served, _) = Served::image("v1", &small_image(4));
    served.faults(&["any:status=404"]);
    let repository = repository(&served);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let message = list_tags(&scratch, &skopeo, &repository).run().failed(1);
        let start = format!("longshore: can't list the tags of {repository}: ");
        assert!(message.starts_with(&start), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_invalid_repository_is_wrong_usage() {
    let scratch = Scratch::new();
    let skopeo = crate::harness::newest_skopeo();
    for (text, words) in [
        ("docker://127.0.0.1:1/a:b", "without a tag"),
        ("docker://", "docker://HOST/NAME"),
        ("debian", "did you mean docker://debian"),
        ("oci:/dir", "only a registry"),
    ] {
        let message = list_tags(&scratch, &skopeo, text).run().failed(2);
        assert!(message.contains(words), "{message}");
    }
}
