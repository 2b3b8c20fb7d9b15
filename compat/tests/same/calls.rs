// `main.rs` includes this file once for each crate. The functions make every call.

fn config(skopeo: &std::path::Path) -> cip::ImageProxyConfig {
    let mut config = cip::ImageProxyConfig::default();
    config.skopeo_cmd = Some(std::process::Command::new(skopeo));
    config.insecure_policy = Some(true);
    config.insecure_skip_tls_verification = Some(true);
    config
}

/// The variant of an error, and what programs may read out of it.
fn kind(error: &cip::Error) -> String {
    let retryable = error.is_retryable();
    let variant = match error {
        cip::Error::RequestInitiationFailure { method, .. } => format!("refused {method}"),
        cip::Error::RetryableRequestFailure { method, .. } => format!("retryable {method}"),
        cip::Error::BlobError(error) => blob_kind(error),
        cip::Error::SkopeoSpawnError(error) => format!("spawn {:?}", error.kind()),
        cip::Error::ProxyTooOld { .. } => error.to_string(),
        cip::Error::Io(_) => "io".to_owned(),
        cip::Error::SerDe(_) => "json".to_owned(),
        cip::Error::RequestReturned(_) => "returned".to_owned(),
        cip::Error::Configuration(_) => "configuration".to_owned(),
        // Only the text before " for " is compared. The rest quotes a digest, and has other words in each crate.
        cip::Error::Other(text) => format!("other: {}", text.split(" for ").next().unwrap()),
        other => format!("{other:?}"),
    };
    let broken_pipe = error.to_string().ends_with("broken pipe");
    format!("{variant}, retryable: {retryable}, broken pipe: {broken_pipe}")
}

fn blob_kind(error: &cip::GetBlobError) -> String {
    match error {
        cip::GetBlobError::Retryable(_) => "retryable blob".to_owned(),
        cip::GetBlobError::Other(_) => "blob".to_owned(),
        other => format!("{other:?}"),
    }
}

fn outcome<T>(result: Result<T, cip::Error>, show: impl FnOnce(T) -> String) -> String {
    result.map_or_else(|error| kind(&error), show)
}

fn hash(bytes: &[u8]) -> String {
    test_support::sha256(bytes).to_string()
}

pub(crate) async fn every_call(subject: &super::Subject) -> Vec<super::Line> {
    fn is_shared<T: Send + Sync + std::fmt::Debug>(_: &T) {}
    let mut lines = Vec::new();
    let mut found = |what: &str, outcome: String| lines.push((what.to_owned(), outcome));

    let proxy = cip::ImageProxy::new_with_config(config(&subject.skopeo))
        .await
        .unwrap();
    is_shared(&proxy);
    found("proxy", format!("{proxy:?}"));
    let version: &semver::Version = proxy.protocol_version();
    found("version", version.to_string());
    found("raw", proxy.supports_get_raw_blob().to_string());
    found("varlink", proxy.supports_open_varlink_socket().to_string());

    let reference: cip::ImageReference = subject.image.as_str().try_into().unwrap();
    let missing: cip::ImageReference = subject.missing.parse().unwrap();
    let some = |image: Option<cip::OpenedImage>| image.is_some().to_string();
    found(
        "optional",
        outcome(proxy.open_image_optional(&subject.image).await, some),
    );
    found(
        "optional, missing",
        outcome(proxy.open_image_optional(&subject.missing).await, some),
    );
    found(
        "optional, by parts",
        outcome(proxy.open_image_optional_ref(&missing).await, some),
    );
    found(
        "missing",
        outcome(proxy.open_image(&subject.missing).await, |_| {
            "opened".to_owned()
        }),
    );
    found(
        "nonsense",
        outcome(proxy.open_image("nonsense").await, |_| "opened".to_owned()),
    );
    let other = proxy.open_image_ref(&reference).await.unwrap();
    let image: cip::OpenedImage = proxy.open_image(&subject.image).await.unwrap();
    is_shared(&image);
    found("equal", (image == other).to_string());

    let (digest, raw): (String, Vec<u8>) = proxy.fetch_manifest_raw_oci(&image).await.unwrap();
    found("raw manifest", format!("{digest} {}", hash(&raw)));
    let (digest, manifest) = proxy.fetch_manifest(&image).await.unwrap();
    found(
        "manifest",
        format!("{digest} {}", serde_json::to_string(&manifest).unwrap()),
    );
    found(
        "raw config",
        hash(&proxy.fetch_config_raw(&image).await.unwrap()),
    );
    let read: cip::oci_spec::image::ImageConfiguration = proxy.fetch_config(&image).await.unwrap();
    found("config", serde_json::to_string(&read).unwrap());
    let layers: Result<Option<Vec<cip::ConvertedLayerInfo>>, _> =
        proxy.get_layer_info(&image).await;
    found("layers", outcome(layers, |layers| format!("{layers:?}")));
    let socket: Result<std::os::fd::OwnedFd, _> = proxy.open_varlink_socket(&image).await;
    found("socket", outcome(socket, |_| "a socket".to_owned()));

    for (digest, size) in &subject.layers {
        found("blob", blob(&proxy, &image, digest, *size).await);
        found("in turn", blob_in_turn(&proxy, &image, digest, *size).await);
        let layer = manifest
            .layers()
            .iter()
            .find(|layer| layer.digest() == digest)
            .unwrap();
        found("layer", layer_of(&proxy, &image, layer).await);
        found("raw blob", raw_blob(&proxy, &image, digest).await);
        found("stream", stream(&proxy, &image, digest, *size).await);
    }
    found(
        "document",
        layer_of(&proxy, &image, manifest.config()).await,
    );

    found(
        "close",
        outcome(proxy.close_image(&other).await, |()| "closed".to_owned()),
    );
    found(
        "close again",
        outcome(proxy.close_image(&other).await, |()| "closed".to_owned()),
    );
    found(
        "closed",
        outcome(proxy.fetch_manifest(&other).await, |_| "fetched".to_owned()),
    );
    found(
        "closed blob",
        blob(&proxy, &other, &subject.layers[0].0, 1).await,
    );
    found(
        "end",
        outcome(proxy.finalize().await, |()| "ended".to_owned()),
    );
    lines
}

async fn layer_of(
    proxy: &cip::ImageProxy,
    image: &cip::OpenedImage,
    layer: &cip::oci_spec::image::Descriptor,
) -> String {
    let (reader, driver) = proxy.get_descriptor(image, layer).await.unwrap();
    read(reader, driver).await
}

pub(crate) async fn bad_starts() -> Vec<super::Line> {
    let version = |version: &str| {
        let reply = format!(r#"{{"success":true,"error":"","pipeid":0,"value":"{version}"}}"#);
        format!("dd bs=65536 count=1 >/dev/null 2>&1; printf '{reply}' >&0; cat >/dev/null")
    };
    let scripts = [
        "exit 3".to_owned(),
        "echo gone >&2; exit 3".to_owned(),
        version("0.2.2"),
        version("0.3.0"),
    ];
    let mut commands = vec![std::process::Command::new("/does/not/exist")];
    commands.extend(scripts.map(|script| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]);
        command
    }));
    let mut lines = Vec::new();
    for command in commands {
        let mut config = cip::ImageProxyConfig::default();
        config.skopeo_cmd = Some(command);
        let mut found = |what: &str, outcome: String| lines.push((what.to_owned(), outcome));
        let started = cip::ImageProxy::new_with_config(config).await;
        found("start", outcome(started, |_| "started".to_owned()));
    }
    lines
}
