//! Images of all kinds and from all sources are pulled correctly, as skopeo's own digest checks show.

use std::path::Path;
use std::process::Command;

use crate::harness::{Outcome, Served, config, faults, options, pull, random};
use longshore::{ConnectionOptions, Discard, Error, Fetcher, Pulled, RefusalKind};
use serde_json::Value;
use test_registry::format::Compression;
use test_registry::image::write_index;
use test_registry::server::{Options, Registry};
use test_support::leaks::{prepare, run, run_without};
use test_support::tools::{self, SKOPEOS};
use test_support::{chain, sha256, within_bound};
use tokio::runtime::Builder;

/// Runs the system's skopeo, which can start itself again. Some transports need that.
fn skopeo_copy(arguments: &[&str]) {
    let mut copy = Command::new(tools::system("skopeo"));
    copy.args(["--insecure-policy", "copy", "--quiet"]);
    tools::succeed(copy.args(arguments));
}

/// Checks that the pull has succeeded, and that skopeo, which verifies digests, can copy the layout.
#[track_caller]
fn assert_skopeo_copies(outcome: &Outcome) -> &Pulled {
    let pulled = match &outcome.result {
        Ok(pulled) => pulled,
        Err(error) => panic!("{}", chain(error)),
    };
    let folder = tempfile::tempdir().unwrap();
    let from = format!("oci:{}:latest", outcome.target.path().display());
    skopeo_copy(&[&from, &format!("dir:{}", folder.path().display())]);
    let manifest = std::fs::read(folder.path().join("manifest.json")).unwrap();
    let content = &pulled.images[0];
    assert_eq!(manifest, content.manifest());
    let stored = content.manifest_descriptor();
    assert_eq!(sha256(&manifest), *stored.digest());
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(
        manifest["layers"].as_array().unwrap().len(),
        content.layers().len()
    );
    pulled
}

#[test]
#[ignore = "needs skopeo"]
fn a_docker_schema_2_image_is_stored_as_oci() {
    for protocol in SKOPEOS {
        run(async {
            let image = random(4, 10_000, 0).docker_schema2();
            let served = Served::with(Options::default(), &image);
            let outcome = pull(config(protocol), options(), &served.reference()).await;
            let content = &assert_skopeo_copies(&outcome).images[0];
            let source = served.image.manifest_digest.as_ref();
            assert_eq!(content.source_digest().as_ref(), source, "{protocol}");
            let stored = content.manifest_descriptor();
            assert_ne!(stored.digest().as_ref(), source, "{protocol}");
            let manifest: Value = serde_json::from_slice(content.manifest()).unwrap();
            let layer = &manifest["layers"][0]["mediaType"];
            let expected = "application/vnd.oci.image.layer.v1.tar+gzip";
            assert_eq!(layer, expected, "{protocol}");
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_source_manifest_of_a_converted_image_is_available() {
    for protocol in SKOPEOS {
        for is_docker in [false, true] {
            run(async {
                let image = random(2, 1000, 0);
                let image = if is_docker {
                    image.docker_schema2()
                } else {
                    image
                };
                let served = Served::with(Options::default(), &image);
                let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
                let image = within_bound(fetcher.open(&served.reference()))
                    .await
                    .unwrap();
                assert_eq!(image.is_converted(), is_docker, "{protocol}");
                let source = within_bound(fetcher.source_manifest(&image)).await.unwrap();
                assert_eq!(sha256(&source), *image.digest(), "{protocol}");
                let is_same = source == image.manifest_raw();
                assert_eq!(is_same, !is_docker, "{protocol}");
            });
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_is_none() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(1, 1000);
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let there = within_bound(fetcher.open_optional(&served.reference())).await;
            assert!(there.unwrap().is_some(), "{protocol}");
            let missing = served.registry.reference("missing");
            let missing = within_bound(fetcher.open_optional(&missing)).await;
            assert!(missing.unwrap().is_none(), "{protocol}");
            // Older skopeos call a missing tag of a layout an error.
            if protocol == SKOPEOS[2] {
                let layout = tempfile::tempdir().unwrap();
                write_index(layout.path(), "latest", &[]).unwrap();
                let missing = format!("oci:{}:missing", layout.path().display());
                let missing = within_bound(fetcher.open_optional(&missing)).await;
                assert!(missing.unwrap().is_none(), "{protocol}");
                let nowhere = within_bound(fetcher.open_optional("oci-archive:/nowhere.tar")).await;
                nowhere.expect_err("a wrong path is no missing image");
            }
            served.registry.set_faults(faults(&["manifest:status=403"]));
            let denied = within_bound(fetcher.open_optional(&served.reference())).await;
            let denied = denied.unwrap_err();
            assert_eq!(denied.kind(), Some(RefusalKind::Denied), "{protocol}");
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_image_for_the_platform_is_chosen_from_an_index() {
    for protocol in SKOPEOS {
        run(async {
            let layout = tempfile::tempdir().unwrap();
            let images = [("amd64", 0), ("arm64", 100)].map(|(architecture, seed)| {
                random(3, 10_000, seed).platform("linux", architecture)
            });
            let index = write_index(layout.path(), "latest", &images).unwrap();
            let registry = Registry::start(layout.path(), Options::default()).unwrap();
            for (architecture, image) in ["amd64", "arm64"].into_iter().zip(&index.images) {
                let mut config = config(protocol);
                config.os = Some("linux".into());
                config.architecture = Some(architecture.into());
                let outcome = pull(config, options(), &registry.reference("latest")).await;
                let content = &assert_skopeo_copies(&outcome).images[0];
                let expected = format!("linux/{architecture}");
                assert_eq!(content.platform(), Some(expected), "{protocol}");
                let digest = image.manifest_digest.as_ref();
                assert_eq!(content.source_digest().as_ref(), digest, "{protocol}");
            }
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn zstd_layers_are_stored_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, zstd) = (folder.path().join("plain"), folder.path().join("zstd"));
    let image = random(3, 50_000, 0).compression(Compression::None);
    image.write(&plain, "latest").unwrap();
    prepare(|| {
        skopeo_copy(&[
            "--dest-compress-format=zstd",
            &format!("oci:{}:latest", plain.display()),
            &format!("oci:{}:latest", zstd.display()),
        ]);
    });
    for protocol in SKOPEOS {
        run(async {
            let registry = Registry::start(&zstd, Options::default()).unwrap();
            let outcome = pull(config(protocol), options(), &registry.reference("latest")).await;
            let content = &assert_skopeo_copies(&outcome).images[0];
            assert_eq!(content.layers().len(), 3, "{protocol}");
            for layer in content.layers() {
                let kind = layer.descriptor.media_type().to_string();
                let expected = "application/vnd.oci.image.layer.v1.tar+zstd";
                assert_eq!(kind, expected, "{protocol}");
                assert!(layer.diff_id.is_some(), "{protocol}");
            }
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_of_400_layers_is_pulled() {
    let image = random(400, 100, 0);
    for protocol in SKOPEOS {
        run(async {
            let served = Served::with(Options::default(), &image);
            let outcome = pull(config(protocol), options(), &served.reference()).await;
            assert_eq!(
                assert_skopeo_copies(&outcome).fetched_blobs,
                401,
                "{protocol}"
            );
            assert!((0..400).all(|layer| served.gets(layer) == 1), "{protocol}");
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn oci_and_dir_folders_are_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let (oci, dir) = (folder.path().join("oci"), folder.path().join("dir"));
    let image = random(5, 10_000, 0).write(&oci, "latest").unwrap();
    let oci = format!("oci:{}:latest", oci.display());
    let dir = format!("dir:{}", dir.display());
    prepare(|| skopeo_copy(&[&oci, &dir]));
    for reference in [&oci, &dir] {
        for protocol in SKOPEOS {
            run(async {
                let outcome = pull(config(protocol), options(), reference).await;
                let content = &assert_skopeo_copies(&outcome).images[0];
                let digest = image.manifest_digest.as_ref();
                assert_eq!(
                    content.source_digest().as_ref(),
                    digest,
                    "{reference} {protocol}"
                );
            });
        }
    }
}

/// The name of an image in a storage of its own in this folder. This needs root, or a user namespace.
fn in_storage(folder: &Path) -> String {
    let (root, run) = (folder.join("root"), folder.join("run"));
    format!(
        "containers-storage:[vfs@{}+{}]localhost/test:latest",
        root.display(),
        run.display()
    )
}

/// A storage with one image of three layers.
fn storage(folder: &Path) -> String {
    let layout = folder.join("layout");
    random(3, 50_000, 0).write(&layout, "latest").unwrap();
    let name = in_storage(folder);
    skopeo_copy(&[&format!("oci:{}:latest", layout.display()), &name]);
    name
}

/// A storage with the same image, made by buildah layer by layer.
fn built_storage(folder: &Path) -> String {
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new(tools::system("buildah"));
        command.arg("--root").arg(folder.join("root"));
        command.arg("--runroot").arg(folder.join("run"));
        command.args(["--storage-driver", "vfs"]).args(arguments);
        tools::succeed(&mut command);
    };
    let mut base = "scratch";
    for number in 0..3 {
        let file = folder.join(format!("file-{number}"));
        std::fs::write(&file, format!("{number}").repeat(10_000)).unwrap();
        buildah(&["from", "--pull-never", "--name", "working", base]);
        buildah(&["add", "--quiet", "working", file.to_str().unwrap(), "/"]);
        base = "localhost/test:latest";
        buildah(&["commit", "--quiet", "--rm", "working", base]);
    }
    in_storage(folder)
}

#[test]
#[ignore = "needs skopeo, buildah, root"]
fn layers_of_a_storage_are_uncompressed() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let references = prepare(|| [storage(folders[0].path()), built_storage(folders[1].path())]);
    for (reference, protocol) in references
        .iter()
        .flat_map(|reference| ["0.2.6", "0.2.8"].map(|protocol| (reference, protocol)))
    {
        run(async {
            let outcome = pull(config(protocol), options(), reference).await;
            let content = &assert_skopeo_copies(&outcome).images[0];
            assert_eq!(content.layers().len(), 3, "{protocol}");
            for layer in content.layers() {
                let kind = layer.descriptor.media_type().to_string();
                let expected = "application/vnd.oci.image.layer.v1.tar";
                assert_eq!(kind, expected, "{protocol}");
                let digest = layer.descriptor.digest();
                assert_eq!(layer.diff_id.as_ref(), Some(digest), "{protocol}");
            }
        });
    }
}

#[test]
#[ignore = "needs skopeo, buildah, root"]
fn a_storage_needs_a_proxy_that_lists_its_layers() {
    let folder = tempfile::tempdir().unwrap();
    let reference = prepare(|| storage(folder.path()));
    run(async {
        let outcome = pull(config("0.2.3"), options(), &reference).await;
        let error = chain(outcome.error());
        assert!(error.contains("0.2.5"), "{error}");
    });
}

#[test]
#[ignore = "needs skopeo"]
fn documents_over_the_bound_are_refused_and_named() {
    run(async {
        let layout = tempfile::tempdir().unwrap();
        let image = random(1, 1000, 20).label("long", &"x".repeat(5000));
        image.write(layout.path(), "latest").unwrap();
        write_index(layout.path(), "index", &[image]).unwrap();
        let registry = Registry::start(layout.path(), Options::default()).unwrap();
        for protocol in SKOPEOS {
            for (limit, wanted) in [(10, "manifest"), (2000, "image config")] {
                let mut config = config(protocol);
                config.connection = ConnectionOptions::default().max_document_bytes(limit);
                let outcome = pull(config, options(), &registry.reference("latest")).await;
                let Error::DocumentTooLarge {
                    what,
                    limit: outcome,
                    ..
                } = outcome.error()
                else {
                    panic!("{protocol}: {}", chain(outcome.error()));
                };
                assert_eq!((*what, *outcome), (wanted, limit), "{protocol}");
            }
            let mut config = config(protocol);
            config.connection = ConnectionOptions::default().max_document_bytes(10);
            let fetcher = Fetcher::new(config, options()).await.unwrap();
            let index = fetcher.open_index(&registry.reference("index")).await;
            let error = index.unwrap_err();
            assert_eq!(error.to_string(), "the index has more than 10 bytes");
        }
    });
}

/// Simulates a program that has a `block_on` for each step. The runtime of the proxy that opened the image no
/// longer runs, so this proxy does not answer, and others are started.
#[test]
#[ignore = "needs skopeo"]
fn an_image_opened_in_a_runtime_that_is_idle_is_pulled_in_another() {
    let runtime = |threads| {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(threads)
            .enable_all()
            .build()
            .unwrap()
    };
    run_without(|| {
        // This is the runtime of the registry, which runs.
        let served = runtime(1);
        let guard = served.enter();
        let image = Served::new(3, 20_000);
        drop(guard);
        let idle = Builder::new_current_thread().enable_all().build().unwrap();
        let (fetcher, opened) = idle.block_on(async {
            let options = options().start_ahead(false);
            let fetcher = Fetcher::new(config("0.2.8"), options).await.unwrap();
            let opened = fetcher.open(&image.reference()).await.unwrap();
            (fetcher, opened)
        });
        let pulled = runtime(2)
            .block_on(async { within_bound(Box::pin(fetcher.pull(&opened, Discard))).await });
        assert_eq!(pulled.unwrap().images.len(), 1);
        drop((opened, fetcher, idle, image, served));
    });
}
