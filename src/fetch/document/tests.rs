use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn no_document_makes_a_reader_panic(raw: Vec<u8>, text in r"([ -~]|\\u[dD][89a-fA-F]?[0-9]{0,2}|é)*") {
        let text = format!(r#"{{"a":"{text}"}}"#);
        for raw in [&raw[..], text.as_bytes()] {
            let _ = (manifest(raw), index(raw), config(raw), members(raw, "manifest"));
            let _ = (subject(raw), super::descriptor(raw, "index"), digests_in(raw));
        }
    }

    #[test]
    fn valid_unicode_is_unchanged(text: String) {
        let document = json!({ "a": text }).to_string();
        prop_assert_eq!(decode_like_go(document.as_bytes()), document);
    }
}

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn descriptor(digit: char, size: u64) -> Value {
    json!({ "mediaType": "x", "digest": digest(digit), "size": size })
}

fn manifest_of(text: &str) -> Result<ImageManifest> {
    let text = text
        .replace("$C", &descriptor('c', 2).to_string())
        .replace("$L", &descriptor('a', 7).to_string());
    manifest(text.as_bytes())
}

#[test]
fn odd_manifests_that_name_their_blobs_are_parsed() {
    let table = [
        (r#"{"config":$C,"layers":[$L]}"#, 1),
        (r#"{"config":$C,"layers":null}"#, 0),
        (r#"{"config":$C}"#, 0),
        (r#"{"Config":$C,"LAYERS":[$L,$L]}"#, 2),
        (r#"{"config":$C,"layerſ":[$L]}"#, 1),
        (r#"{"schemaVersion":"two","config":$C,"layers":[$L]}"#, 1),
        (
            r#"{"config":$C,"layers":[$L],"annotations":{"a":null,"b":"c","d":1}}"#,
            1,
        ),
        (r#"{"config":$C,"layers":[$L],"annotations":[]}"#, 1),
        (
            r#"{"config":$C,"layers":[$L],"mediaType":7,"subject":true}"#,
            1,
        ),
        (r#"{"config":$C,"layers":[$L],"x":1,"x":2,"X":1.5}"#, 1),
    ];
    for (text, layers) in table {
        let manifest = manifest_of(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        assert_eq!(manifest.layers().len(), layers, "{text}");
        assert_eq!(manifest.config().size(), 2, "{text}");
    }
    let odd = manifest_of(
        r#"{"config":{"digest":"DIGEST","size":3,"platform":{},"data":1,"urls":null}}"#
            .replace("DIGEST", &digest('d'))
            .as_str(),
    )
    .expect("it names its config");
    assert_eq!(odd.config().size(), 3);
    assert_eq!(odd.config().digest().as_ref(), digest('d'));
}

#[test]
fn manifests_that_two_readers_could_understand_differently_are_refused() {
    for text in [
        r#"{"config":$C,"layers":[$L],"Layers":[]}"#,
        r#"{"config":$C,"layers":[$L],"layers":[]}"#,
        r#"{"config":$C,"layers":null,"LAYERS":[$L]}"#,
        r#"{"config":$C,"config":$C}"#,
        r#"{"config":{"digest":"DIGEST","Digest":"DIGEST","size":1}}"#,
        r#"{"config":$C,"layers":[{"digest":"DIGEST","size":1,"SIZE":2}]}"#,
    ] {
        let text = text.replace("DIGEST", &digest('d'));
        let error = manifest_of(&text).expect_err(&text);
        assert!(
            error.to_string().contains("more than once"),
            "{text}: {error}"
        );
    }
}

#[test]
fn manifests_that_do_not_name_their_blobs_are_refused() {
    for text in [
        "",
        "null",
        "[]",
        "\u{feff}{}",
        "{}",
        r#"{"config":null}"#,
        r#"{"config":$C,"layers":{}}"#,
        r#"{"config":$C,"layers":[null]}"#,
        r#"{"config":$C,"layers":[{"size":1}]}"#,
        r#"{"config":$C,"layers":[{"digest":"sha256:../x","size":1}]}"#,
        r#"{"config":{"digest":"DIGEST","size":-1}}"#,
        r#"{"config":{"digest":"DIGEST","size":1.5}}"#,
        r#"{"config":{"digest":"DIGEST","size":"1"}}"#,
    ] {
        let text = text.replace("DIGEST", &digest('d'));
        assert!(manifest_of(&text).is_err(), "{text}");
    }
}

#[test]
fn an_index_is_distinguished_from_other_documents() {
    let raw = json!({ "manifests": [descriptor('a', 7)] }).to_string();
    let entry = Entry {
        media_type: "x".into(),
        digest: digest('a').parse().expect("a digest"),
        size: 7,
    };
    assert_eq!(index(raw.as_bytes()).expect("fine"), Some(vec![entry]));
    let empty = index(br#"{"manifests":[]}"#).expect("fine");
    assert_eq!(empty, Some(vec![]));
    for other in [
        "{}",
        r#"{"config":{},"layers":[]}"#,
        r#"{"manifests":null}"#,
    ] {
        assert_eq!(index(other.as_bytes()).expect("JSON"), None, "{other}");
    }
    for bad in [
        "",
        r#"{"manifests":[{"digest":"../x"}]}"#,
        r#"{"manifests":7}"#,
        r#"{"manifests":[],"layers":[]}"#,
        r#"{"manifests":[],"Config":{}}"#,
    ] {
        assert!(index(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn an_entry_has_a_platform_if_it_names_one() {
    let table = [
        ("null", None),
        ("7", None),
        (r#"{"os":"linux"}"#, None),
        (r#"{"os":"linux","OS":"a","architecture":"amd64"}"#, None),
        (
            r#"{"OS":"linux","architecture":"amd64","variant":""}"#,
            Some(["linux", "amd64", "", ""]),
        ),
        (
            r#"{"os":"odd","architecture":"odder","variant":"v7","os.version":"1","x":2}"#,
            Some(["odd", "odder", "v7", "1"]),
        ),
    ];
    for (platform, expected) in table {
        let digest = digest('a');
        let raw =
            format!(r#"{{"manifests":[{{"digest":"{digest}","size":1,"platform":{platform}}}]}}"#);
        let found = descriptors(raw.as_bytes()).expect(platform);
        let found = found.expect("an index")[0].platform().clone();
        let found = found.map(|found| {
            [
                found.os().to_string(),
                found.architecture().to_string(),
                found.variant().clone().unwrap_or_default(),
                found.os_version().clone().unwrap_or_default(),
            ]
        });
        let expected = expected.map(|expected| expected.map(str::to_owned));
        assert_eq!(found, expected, "{platform}");
        assert!(index(raw.as_bytes()).expect(platform).is_some());
    }
}

#[test]
fn a_manifest_has_its_artifact_type_and_its_subject() {
    let of = |fields: Value| {
        let mut document = json!({ "config": descriptor('c', 1), "layers": [] });
        let object = document.as_object_mut().expect("an object");
        object.extend(fields.as_object().expect("an object").clone());
        let manifest = manifest(document.to_string().as_bytes()).expect("a manifest");
        let artifact_type = manifest.artifact_type().as_ref().map(ToString::to_string);
        let subject = manifest.subject().as_ref();
        (artifact_type, subject.map(|of| of.digest().to_string()))
    };
    let both = json!({ "artifactType": "application/x", "subject": descriptor('a', 7) });
    let expected = (Some("application/x".to_owned()), Some(digest('a')));
    assert_eq!(of(both), expected);
    // What no pull needs stops no pull.
    for wrong in [
        json!({}),
        json!({ "artifactType": 7, "subject": 7 }),
        json!({ "artifactType": null, "subject": { "digest": "x" } }),
    ] {
        assert_eq!(of(wrong.clone()), (None, None), "{wrong}");
    }
}

#[test]
fn a_subject_is_found_where_there_is_one() {
    let subject = |text: String| {
        let found = subject(text.as_bytes());
        found.map(|found| found.map(|found| found.digest().to_string()))
    };
    let one = json!({ "Subject": descriptor('a', 7) }).to_string();
    assert_eq!(subject(one).expect("a subject"), Some(digest('a')));
    for none in ["{}", r#"{"subject":null}"#] {
        assert_eq!(subject(none.to_owned()).expect("none"), None);
    }
    for wrong in ["", r#"{"subject":7}"#, r#"{"subject":{"digest":"x"}}"#] {
        assert!(subject(wrong.to_owned()).is_err(), "{wrong}");
    }
}

#[test]
fn digests_are_found_in_documents_of_any_kind() {
    let (a, b) = (digest('a'), digest('b'));
    let texts = [
        json!({ "blobs": [{ "digest": a }], "x": { "y": b } }).to_string(),
        format!("<image ref=\"{a}\">{b}</image>"),
        format!("{a}\n{b} sha256:short"),
    ];
    for text in texts {
        let found: Vec<_> = digests_in(text.as_bytes());
        let found: Vec<_> = found.iter().map(AsRef::as_ref).collect();
        assert_eq!(found, [&a, &b], "{text}");
    }
    assert!(digests_in(b"\xff\xfe").is_empty());
}

#[test]
fn invalid_unicode_is_replaced_as_in_go() {
    let table: [(&[u8], &str); 8] = [
        (b"\xff", "\u{fffd}"),
        (br"\ud800", "\u{fffd}"),
        (br"\udc00x", "\u{fffd}x"),
        (br"\ud800\ud800", "\u{fffd}\u{fffd}"),
        (br"\ud83d\ude00", "\u{1f600}"),
        (br"\\ud800", r"\ud800"),
        (br#"\""#, "\""),
        (br"\ud800\u00e9", "\u{fffd}\u{e9}"),
    ];
    for (raw, expected) in table {
        let document = [br#"{"a":""#, raw, br#""}"#].concat();
        let name = String::from_utf8_lossy(raw);
        let members = members(&document, "manifest").unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(members["a"], expected, "{name}");
    }
    for text in ["", "\\", "\\u", "\\u1", "\\\u{e9}", "\\ud80\u{e9}"] {
        assert!(members(text.as_bytes(), "manifest").is_err());
    }
}

#[test]
fn fields_of_a_config_that_can_not_be_parsed_are_empty() {
    let table: [(&[u8], Config); 6] = [
        (b"{}", Config::default()),
        (b"no JSON", Config::default()),
        (br#"{"rootfs":{"diff_ids":null},"os":7}"#, Config::default()),
        (
            br#"{"OS":"linux","config":{"Entrypoint":"x"},"rootfs":{"diff_ids":["a",1]}}"#,
            Config {
                os: Some("linux".into()),
                diff_ids: vec!["a".into(), String::new()],
                ..Config::default()
            },
        ),
        (
            br#"{"architecture":"arm","variant":"v7","os":""}"#,
            Config {
                architecture: Some("arm".into()),
                variant: Some("v7".into()),
                ..Config::default()
            },
        ),
        (
            b"{\"os\":\"\xff\"}",
            Config {
                os: Some("\u{fffd}".into()),
                ..Config::default()
            },
        ),
    ];
    for (raw, expected) in table {
        assert_eq!(config(raw), expected, "{}", String::from_utf8_lossy(raw));
    }
}
