// `main.rs` includes this file once for each crate. The functions need no proxy.

fn line(what: impl std::fmt::Display, outcome: impl std::fmt::Debug) -> super::Line {
    (what.to_string(), format!("{outcome:?}"))
}

/// References in parts, and the texts of errors.
pub(crate) fn texts() -> Vec<super::Line> {
    let mut lines = Vec::new();
    for text in [
        "",
        ":",
        "a",
        "oci",
        "oci:",
        "oci:a",
        "oci:a:b",
        "oci-archive:a.tar:b",
        "docker-archive:a",
        "dir:/a b",
        "docker-daemon:a:b",
        "docker",
        "docker:",
        "docker:a",
        "docker:/a",
        "docker://",
        "docker://a",
        "docker://a.b:5000/c:d",
        "registry",
        "registry:",
        "registry:a.b/c",
        "registry://a.b/c",
        "containers-storage:",
        "containers-storage:a",
        "containers-storage:sha256:abc",
        "containers-storage:[]a",
        "containers-storage:[b@/c+/d:e=f,g]sha256:abc",
        "containers-storage:[a",
        "containers-storage:]a[",
        "a.b:5000/c",
        "ftp://a",
        "Docker://a",
        " docker://a",
        "é:é",
    ] {
        lines.extend(parts(text));
    }
    for name in [
        "quay.io/a/b",
        "quay.io/a/b:c",
        "a",
        "a:b",
        "not a name",
        "",
        "A/B",
    ] {
        let made = cip::ImageReference::try_new_registry(name);
        lines.push(line(format!("at a registry {name:?}"), made));
    }
    let digest = format!("quay.io/a/b:c@sha256:{}", "a".repeat(64));
    let reference: cip::oci_spec::distribution::Reference = digest.parse().unwrap();
    lines.push(line(
        "of oci-spec",
        cip::ImageReference::new_registry(reference),
    ));
    lines.extend(error_texts());
    lines
}

fn parts(text: &str) -> Vec<super::Line> {
    let transport = match cip::Transport::try_from(text) {
        Ok(transport) => format!("{transport} {transport:?} {}", all_transports(transport)),
        Err(error) => format!("{error} {error:?}"),
    };
    let image = match cip::ImageReference::try_from(text) {
        Ok(image) => {
            assert_eq!(text.parse::<cip::ImageReference>().unwrap(), image);
            let storage = image.as_containers_storage().map(|storage| {
                let parts = (
                    storage.store_spec(),
                    storage.image(),
                    storage.image_for_skopeo(),
                );
                let again = [true, false]
                    .map(|normalize| storage.to_image_reference(normalize).to_string());
                format!("{storage:?}").len().min(1).to_string() + &format!("{parts:?} {again:?}")
            });
            format!("{image} {image:?} {:?} {storage:?}", image.as_registry())
        }
        Err(error) => format!("{error} {error:?}"),
    };
    vec![
        line(format!("transport of {text:?}"), transport),
        line(format!("image {text:?}"), image),
    ]
}

/// A match without a wildcard, as users may write it.
fn all_transports(transport: cip::transport::Transport) -> u8 {
    use cip::transport::Transport;
    match transport {
        Transport::Registry => 1,
        Transport::OciDir => 2,
        Transport::OciArchive => 3,
        Transport::DockerArchive => 4,
        Transport::ContainerStorage => 5,
        Transport::Dir => 6,
        Transport::DockerDaemon => 7,
    }
}

fn error_texts() -> Vec<super::Line> {
    fn is_an_error<E: std::error::Error + Send + Sync + 'static>() {}
    is_an_error::<cip::Error>();
    is_an_error::<cip::GetBlobError>();
    is_an_error::<cip::ImageReferenceError>();
    is_an_error::<cip::TransportConversionError>();
    let io = || std::io::Error::other("io");
    let json = || serde_json::from_str::<u8>("x").unwrap_err();
    let version = semver::Version::parse("x").unwrap_err();
    let text = || "reason".into();
    let errors = [
        cip::Error::Io(io()),
        io().into(),
        cip::Error::SkopeoSpawnError(io()),
        cip::Error::SerDe(json()),
        json().into(),
        cip::Error::RequestInitiationFailure {
            method: "Method".into(),
            error: text(),
        },
        cip::Error::RetryableRequestFailure {
            method: "Method".into(),
            error: text(),
        },
        cip::Error::RequestReturned(text()),
        cip::GetBlobError::Retryable(text()).into(),
        cip::Error::BlobError(cip::GetBlobError::Other(text())),
        version.into(),
        cip::Error::ProxyTooOld {
            requested_version: "^0.2.9".into(),
            found_version: "0.2.8".into(),
        },
        cip::Error::Configuration(text()),
        cip::Error::Other(text()),
        rustix::io::Errno::PIPE.into(),
    ];
    let shown = |error: cip::Error| {
        let retryable = error.is_retryable();
        let shown = (error.to_string(), format!("{error:?}"), retryable);
        let root = anyhow::Error::from(error).root_cause().to_string();
        line("error", (shown, root))
    };
    errors.into_iter().map(shown).collect()
}

/// The arguments of the commands that configurations become. Their order does not matter.
pub(crate) fn commands() -> Vec<super::Line> {
    assert_eq!(cip::RESERVED_FD_RANGE, 100..200);
    let with = |change: &dyn Fn(&mut cip::ImageProxyConfig)| {
        let mut config = cip::ImageProxyConfig::default();
        change(&mut config);
        config
    };
    let auth = || {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"{}").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Some(file)
    };
    let configs = [
        with(&|_| ()),
        with(&|config| config.authfile = Some("/a b".into())),
        with(&|config| config.auth_data = auth()),
        with(&|config| config.auth_anonymous = true),
        with(&|config| config.certificate_directory = Some("/c".into())),
        with(&|config| config.decryption_keys = Some(vec!["k".to_owned(), "l".to_owned()])),
        with(&|config| config.insecure_skip_tls_verification = Some(true)),
        with(&|config| config.insecure_skip_tls_verification = Some(false)),
        with(&|config| config.insecure_policy = Some(true)),
        with(&|config| config.insecure_policy = Some(false)),
        with(&|config| config.debug = true),
        with(&|config| config.skopeo_cmd = Some(std::process::Command::new("wrapper"))),
        with(&|config| {
            config.authfile = Some("/a".into());
            config.auth_anonymous = true;
        }),
        with(&|config| {
            config.auth_data = auth();
            config.auth_anonymous = true;
        }),
    ];
    let command = |config| match std::process::Command::try_from(config) {
        Ok(command) => {
            let arguments = command
                .get_args()
                .map(|argument| argument.to_string_lossy().into_owned());
            let mut arguments: Vec<_> = arguments.collect();
            arguments.sort();
            line("command", (command.get_program(), arguments))
        }
        Err(error) => line("no command", matches!(error, cip::Error::Configuration(_))),
    };
    configs.into_iter().map(command).collect()
}
