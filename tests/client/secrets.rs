//! Credentials reach a real registry, and appear nowhere else: not on a command line, not in the environment,
//! not in `Debug`, errors or logs.

use std::fs::{self, File};
use std::io::{Seek, Write};

use base64::Engine as _;
use longshore::{AuthData, Credentials, Error, ImageProxy, ImageProxyConfig};
use serde_json::json;
use test_support::docker_registry::{DockerRegistry, PASSWORD, USER};
use test_support::image::TestImage;
use test_support::leaks::run;
use test_support::process::{kill_now, only_child_besides};
use test_support::tools::{self, SKOPEOS};
use test_support::{log, within_bound};

/// The form in which credentials are given to a proxy.
#[derive(Debug, Clone, Copy)]
enum Given {
    Credentials,
    AuthDataBytes,
    AuthDataFile,
    AuthDataPipe,
}

impl Given {
    const ALL: [Self; 4] = [
        Self::Credentials,
        Self::AuthDataBytes,
        Self::AuthDataFile,
        Self::AuthDataPipe,
    ];

    fn to(self, config: ImageProxyConfig, host: &str, password: &str) -> ImageProxyConfig {
        let auth = auth_file(host, password);
        match self {
            Self::Credentials => config.credentials(Credentials::password(host, USER, password)),
            Self::AuthDataBytes => config.auth_data(auth.into_bytes()),
            Self::AuthDataFile => {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(auth.as_bytes()).unwrap();
                file.rewind().unwrap();
                config.auth_data(AuthData::from(file))
            }
            Self::AuthDataPipe => {
                let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
                File::from(write).write_all(auth.as_bytes()).unwrap();
                config.auth_data(AuthData::from(read))
            }
        }
    }
}

fn encoded(password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"))
}

fn auth_file(host: &str, password: &str) -> String {
    json!({ "auths": { (host): { "auth": encoded(password) } } }).to_string()
}

#[track_caller]
fn assert_no_secret(place: &str, text: &str, password: &str) {
    for secret in [password.to_owned(), encoded(password)] {
        assert!(!text.contains(&secret), "{place}: {text}");
        let as_bytes = format!("{:?}", secret.as_bytes());
        let as_bytes = as_bytes.trim_matches(['[', ']']);
        assert!(!text.contains(as_bytes), "{place}, as numbers: {text}");
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn credentials_open_the_registry_and_appear_nowhere() {
    log::record_all();
    run(async {
        let registry = DockerRegistry::locked();
        let test = TestImage::with_layers(&[1000]);
        let reference = registry.push(&test, "app");
        for protocol in SKOPEOS {
            for given in Given::ALL {
                let config = tools::config(protocol).insecure_skip_tls_verification(true);
                let config = given.to(config, &registry.host(), PASSWORD);
                assert_no_secret("Debug of the config", &format!("{config:?}"), PASSWORD);
                let proxy = ImageProxy::new_with_config(config).await.unwrap();
                assert_no_secret("Debug of the proxy", &format!("{proxy:?}"), PASSWORD);
                let pid = only_child_besides(registry.pid());
                for place in ["cmdline", "environ"] {
                    let bytes = fs::read(format!("/proc/{pid}/{place}")).unwrap();
                    assert!(!bytes.is_empty());
                    assert_no_secret(place, &String::from_utf8_lossy(&bytes), PASSWORD);
                }
                let image = within_bound(proxy.open_image(&reference)).await;
                let image = image.unwrap_or_else(|error| panic!("{protocol} {given:?}: {error:?}"));
                let (digest, _) = within_bound(proxy.fetch_manifest(&image)).await.unwrap();
                assert_eq!(digest, test.manifest.digest);
                let layer = &test.layers[0];
                let blob = within_bound(proxy.get_blob(&image, &layer.digest, layer.size())).await;
                within_bound(blob.unwrap().finish()).await.unwrap();
                drop(image);
                within_bound(proxy.finalize()).await.unwrap();
            }
        }
        let logged = log::recorded();
        assert!(logged.contains("started the proxy"), "{logged}");
        assert_no_secret("the log", &logged, PASSWORD);
    });
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn debug_messages_of_skopeo_contain_no_credentials() {
    log::record_all();
    run(async {
        let registry = DockerRegistry::locked();
        let reference = registry.push(&TestImage::with_layers(&[1]), "app");
        for protocol in SKOPEOS {
            let config = tools::config(protocol)
                .insecure_skip_tls_verification(true)
                .debug(true);
            let config = Given::Credentials.to(config, &registry.host(), PASSWORD);
            let proxy = ImageProxy::new_with_config(config).await.unwrap();
            drop(within_bound(proxy.open_image(&reference)).await.unwrap());
            kill_now(only_child_besides(registry.pid()));
            let error = within_bound(proxy.open_image(&reference))
                .await
                .unwrap_err();
            assert_no_secret("the error", &format!("{error:?}"), PASSWORD);
        }
        assert_no_secret("the log", &log::recorded(), PASSWORD);
    });
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn refused_credentials_appear_in_no_error() {
    log::record_all();
    run(async {
        let registry = DockerRegistry::locked();
        let reference = registry.push(&TestImage::with_layers(&[1]), "app");
        let wrong = "wrong-horse-battery";
        for protocol in SKOPEOS {
            let config = || tools::config(protocol).insecure_skip_tls_verification(true);
            let configs = [
                config().auth_anonymous(true),
                Given::Credentials.to(config(), &registry.host(), wrong),
                // These credentials are for another registry, so this one does not get them.
                Given::Credentials.to(config(), "localhost:1", PASSWORD),
            ];
            for config in configs {
                let proxy = ImageProxy::new_with_config(config).await.unwrap();
                let error = within_bound(proxy.open_image(&reference))
                    .await
                    .unwrap_err();
                assert!(matches!(error, Error::Refused { .. }), "{error:?}");
                for password in [wrong, PASSWORD] {
                    assert_no_secret("the error", &format!("{error:?}"), password);
                    assert_no_secret("the log", &log::recorded(), password);
                }
                within_bound(proxy.finalize()).await.unwrap();
            }
        }
    });
}
