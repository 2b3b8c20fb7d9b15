//! What every proxy must do, in one suite for all of them: the scripted proxy, and each real skopeo with a
//! layout on disk and with a real registry.

use longshore::oci_spec::image::{Digest, ImageManifest};
use longshore::{BlobError, Error, ImageProxy, ImageProxyConfig, OpenedImage};
use test_support::docker_registry::DockerRegistry;
use test_support::fixture::{blob_error, read_all};
use test_support::image::TestImage;
use test_support::leaks::run;
use test_support::memory_proxy::{Leftover, MemoryProxy, has_method};
use test_support::tools::{self, SKOPEOS};
use test_support::{sha256, within_bound};

/// A proxy to be tested, with its images.
struct Subject<'a> {
    proxy: ImageProxy,
    protocol: &'a str,
    image: &'a TestImage,
    reference: &'a str,
    /// The reference of an image that does not exist, with the same transport.
    missing: &'a str,
    /// Whether `OpenImageOptional` reports that `missing` does not exist. skopeo 1.18 fails with an ordinary
    /// error if it is in a layout.
    tells_absence: bool,
}

impl Subject<'_> {
    fn can(&self, method: &str) -> bool {
        has_method(self.protocol, method)
    }

    async fn open(&self) -> OpenedImage {
        within_bound(self.proxy.open_image(self.reference))
            .await
            .unwrap()
    }

    /// Runs the whole suite.
    async fn conforms(self) {
        assert_eq!(self.proxy.protocol_version().to_string(), self.protocol);
        let supported = [
            (
                "OpenImageOptional",
                self.proxy.supports_open_image_optional(),
            ),
            ("GetLayerInfo", self.proxy.supports_get_layer_info()),
            ("GetRawBlob", self.proxy.supports_get_raw_blob()),
            (
                "OpenVarlinkSocket",
                self.proxy.supports_open_varlink_socket(),
            ),
        ];
        for (method, supported) in supported {
            assert_eq!(supported, self.can(method), "{method}");
        }
        self.opens_what_is_there().await;
        self.hands_out_documents().await;
        self.hands_out_blobs().await;
        self.refuses_unknown_blobs().await;
        self.keeps_images_apart().await;
        within_bound(self.proxy.finalize()).await.unwrap();
    }

    async fn opens_what_is_there(&self) {
        let Self {
            proxy,
            reference,
            missing,
            ..
        } = self;
        let refused = within_bound(proxy.open_image(missing)).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Refused { method: "OpenImage", refusal, .. } if !refusal.message.is_empty()),
            "{refused:?}"
        );
        assert!(!refused.is_closed());
        let found = within_bound(proxy.open_image_optional(reference)).await;
        let absent = within_bound(proxy.open_image_optional(missing)).await;
        if self.can("OpenImageOptional") {
            within_bound(proxy.close_image(found.unwrap().unwrap()))
                .await
                .unwrap();
            if self.tells_absence {
                assert!(absent.unwrap().is_none());
            } else {
                assert!(matches!(absent, Err(Error::Refused { .. })), "{absent:?}");
            }
        } else {
            for gated in [found, absent] {
                assert!(matches!(gated, Err(Error::Unsupported { .. })), "{gated:?}");
            }
        }
    }

    async fn hands_out_documents(&self) {
        let Self {
            proxy, image: test, ..
        } = self;
        let image = self.open().await;
        let (digest, raw) = within_bound(proxy.fetch_manifest_raw_oci(&image))
            .await
            .unwrap();
        assert_eq!(digest, test.manifest.digest);
        assert_eq!(raw, test.manifest.bytes);
        let (digest, manifest): (_, ImageManifest) =
            within_bound(proxy.fetch_manifest(&image)).await.unwrap();
        assert_eq!(digest, test.manifest.digest);
        let layers: Vec<_> = manifest
            .layers()
            .iter()
            .map(|layer| layer.digest().clone())
            .collect();
        let expected: Vec<Digest> = test.layers.iter().map(|l| l.digest.clone()).collect();
        assert_eq!(layers, expected);

        let config = within_bound(proxy.fetch_config(&image)).await.unwrap();
        assert_eq!(config.rootfs().diff_ids().len(), test.layers.len());
        let raw = within_bound(proxy.fetch_config_raw(&image)).await.unwrap();
        let raw: serde_json::Value = serde_json::from_slice(&raw).unwrap();
        assert_eq!(raw["config"]["Labels"]["test"], "longshore");
        let part = within_bound(proxy.fetch_runtime_config_raw(&image))
            .await
            .unwrap();
        let part: serde_json::Value = serde_json::from_slice(&part).unwrap();
        assert_eq!(part["Cmd"][0], "/data");

        let info = within_bound(proxy.get_layer_info(&image)).await.unwrap();
        assert_eq!(info.is_some(), self.can("GetLayerInfo"));
        for (info, layer) in info.iter().flatten().zip(&test.layers) {
            assert_eq!(info.digest, layer.digest);
            assert_eq!(info.size, Some(layer.size()));
            assert_eq!(info.media_type.to_string(), layer.media_type);
        }
        assert!(info.is_none_or(|info| info.len() == test.layers.len()));
        if !self.can("OpenVarlinkSocket") {
            let gated = proxy.open_varlink_socket(&image).await.unwrap_err();
            assert!(matches!(gated, Error::Unsupported { .. }), "{gated:?}");
        }
    }

    async fn hands_out_blobs(&self) {
        let Self {
            proxy, image: test, ..
        } = self;
        let image = self.open().await;
        for wanted in test.layers.iter().chain([&test.config]) {
            let get = || proxy.get_blob(&image, &wanted.digest, wanted.size());
            // The blob is read to the end, then verified.
            let mut blob = within_bound(get()).await.unwrap();
            assert_eq!(blob.digest(), &wanted.digest);
            assert!(read_all(&mut blob).await.unwrap() == wanted.bytes);
            within_bound(blob.finish()).await.unwrap();
            // The blob is only verified.
            within_bound(within_bound(get()).await.unwrap().finish())
                .await
                .unwrap();
            // The blob is read through its reader and its driver.
            let (mut reader, driver) = within_bound(get()).await.unwrap().split();
            let (read, verdict) =
                within_bound(async { tokio::join!(read_all(&mut reader), driver) }).await;
            assert!(read.unwrap() == wanted.bytes);
            verdict.unwrap();
            // The blob is given up. The connection stays usable.
            drop(within_bound(get()).await.unwrap());
            // All blobs are open at once, and are read in the order of asking.
            let mut blobs = Vec::new();
            for _ in 0..4 {
                blobs.push(within_bound(get()).await.unwrap());
            }
            for blob in blobs {
                within_bound(blob.finish()).await.unwrap();
            }
            // The blob is read without any check.
            let raw = within_bound(proxy.get_raw_blob(&image, &wanted.digest)).await;
            if self.can("GetRawBlob") {
                assert!(read_all(&mut raw.unwrap()).await.unwrap() == wanted.bytes);
            } else {
                assert!(matches!(raw, Err(Error::Unsupported { .. })), "{raw:?}");
            }
            // The blob has another size than the one that is asked for.
            let short =
                within_bound(proxy.get_blob(&image, &wanted.digest, wanted.size() - 1)).await;
            let verdict = match short {
                Ok(blob) => within_bound(blob.finish()).await,
                Err(error) => Err(error),
            };
            let error = blob_error(verdict.unwrap_err());
            assert!(
                matches!(
                    error,
                    BlobError::WrongSize { .. } | BlobError::Refused(_) | BlobError::Corrupt { .. }
                ),
                "{error:?}"
            );
        }
    }

    async fn refuses_unknown_blobs(&self) {
        let image = self.open().await;
        let unknown = sha256(b"nobody has this");
        let error = within_bound(self.proxy.get_blob(&image, &unknown, 15)).await;
        let error = match error {
            Ok(blob) => within_bound(blob.finish()).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(!error.is_closed());
        assert!(error.to_string().contains(unknown.digest()), "{error}");
        let error = blob_error(error);
        assert!(matches!(error, BlobError::Refused(_)), "{error:?}");
    }

    async fn keeps_images_apart(&self) {
        let Self { proxy, .. } = self;
        let (one, two) = (self.open().await, self.open().await);
        within_bound(proxy.close_image(one)).await.unwrap();
        within_bound(proxy.fetch_manifest(&two)).await.unwrap();
        // Another proxy has images of the same numbers.
        let (other, server) = MemoryProxy::connected("0.2.8", &[]).await;
        let foreign = other.fetch_manifest(&two).await.unwrap_err();
        assert!(matches!(foreign, Error::ForeignImage), "{foreign:?}");
        let foreign = other.close_image(two).await.unwrap_err();
        assert!(matches!(foreign, Error::ForeignImage), "{foreign:?}");
        drop(other);
        assert_eq!(server.ended().await, Leftover::NOTHING);
    }
}

fn image() -> TestImage {
    TestImage::with_layers(&[10, 100_000, 1_000_000])
}

#[test]
fn the_scripted_proxy_conforms_in_every_version() {
    for protocol in ["0.2.3", "0.2.4", "0.2.5", "0.2.6", "0.2.7", "0.2.8"] {
        run(async {
            let test = image();
            let (proxy, server) = MemoryProxy::connected(protocol, &[("memory:x", &test)]).await;
            let subject = Subject {
                proxy,
                protocol,
                image: &test,
                reference: "memory:x",
                missing: "memory:y",
                tells_absence: true,
            };
            subject.conforms().await;
            let left = server.ended().await;
            assert_eq!((left.images, left.unknown.len()), (0, 0), "{left:?}");
        });
    }
}

async fn real(config: ImageProxyConfig, protocol: &str, reference: &str, missing: &str) {
    let test = image();
    let subject = Subject {
        proxy: ImageProxy::new_with_config(config).await.unwrap(),
        protocol,
        image: &test,
        reference,
        missing,
        tells_absence: reference.starts_with("docker:") || protocol != "0.2.6",
    };
    subject.conforms().await;
}

#[test]
#[ignore = "needs skopeo"]
fn each_skopeo_conforms_with_a_layout() {
    for protocol in SKOPEOS {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            image().write_layout(folder.path(), "it");
            let name = folder.path().display();
            let reference = format!("oci:{name}:it");
            let missing = format!("oci:{name}:not");
            real(tools::config(protocol), protocol, &reference, &missing).await;
        });
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn each_skopeo_conforms_with_a_registry() {
    for protocol in SKOPEOS {
        run(async {
            let registry = DockerRegistry::open();
            let reference = registry.push(&image(), "app");
            let missing = format!("docker://{}/app:not", registry.host());
            let config = tools::config(protocol).insecure_skip_tls_verification(true);
            real(config, protocol, &reference, &missing).await;
        });
    }
}
