//! A signature policy is enforced, with any number of proxies. Only images that the right key has signed are
//! pulled, and the error of any other pull names the reason.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    Longshore, Scratch, Served, Skopeo, newest_skopeo, output_of, skopeos, small_image,
};
use test_registry::image::Written;
use test_support::tools;

/// Two keys, and a server of signatures ("lookaside", containers-registries.d(5)).
struct Signer {
    folder: TempDir,
    /// The address from which the signatures can be fetched.
    address: String,
}

impl Signer {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("signatures")).unwrap();
        let address = serve(folder.path().join("signatures"));
        let signer = Self { folder, address };
        for who in ["right", "wrong"] {
            let home = signer.folder.path().join(who);
            fs::create_dir(&home).unwrap();
            // gpg requires a private folder.
            fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
            let mut generate = signer.gpg(who);
            generate.args(["--quick-generate-key", "signer@example.com", "ed25519"]);
            output_of(generate.args(["sign", "never"]));
        }
        signer
    }

    fn gpg(&self, who: &str) -> Command {
        let mut gpg = Command::new(tools::system("gpg"));
        gpg.env("GNUPGHOME", self.folder.path().join(who));
        gpg.args(["--batch", "--quiet", "--pinentry-mode", "loopback"]);
        gpg.args(["--passphrase", ""]);
        gpg
    }

    /// A policy by which only signatures of this identity count.
    fn policy(&self, identity: &str) -> PathBuf {
        let key = self.folder.path().join("key.gpg");
        fs::write(&key, output_of(self.gpg("right").arg("--export"))).unwrap();
        let policy = json!({
            "default": [{ "type": "reject" }],
            "transports": { "docker": { "": [{
                "type": "signedBy",
                "keyType": "GPGKeys",
                "keyPath": key,
                "signedIdentity": { "type": identity },
            }] } },
        });
        let file = self.folder.path().join(format!("{identity}.json"));
        fs::write(&file, policy.to_string()).unwrap();
        file
    }

    fn place(&self, image: &Written) -> PathBuf {
        let digest = image.manifest_digest.digest();
        let folder = format!("signatures/image@sha256={digest}");
        self.folder.path().join(folder)
    }

    /// Signs the image that a tag of the registry names.
    fn sign(&self, who: &str, served: &Served, tag: &str, image: &Written) {
        let mut list = self.gpg(who);
        let keys = output_of(list.args(["--list-keys", "--with-colons"]));
        let keys = String::from_utf8(keys).unwrap();
        let fingerprint = keys
            .lines()
            .find_map(|line| line.strip_prefix("fpr:::::::::"));
        let reference = served.reference(tag);
        let place = self.place(image);
        fs::create_dir_all(&place).unwrap();
        let manifest = served.folder.path().join("blobs/sha256");
        let mut sign = Command::new(newest_skopeo().path);
        sign.env("GNUPGHOME", self.folder.path().join(who))
            .arg("standalone-sign")
            .arg(manifest.join(image.manifest_digest.digest()))
            .arg(reference.trim_start_matches("docker://"))
            .arg(fingerprint.unwrap().trim_end_matches(':'))
            .arg("--output")
            .arg(place.join("signature-1"));
        output_of(&mut sign);
    }

    /// A pull under this policy, which finds the signatures.
    fn pull(&self, scratch: &Scratch, skopeo: &Skopeo, image: &str, identity: &str) -> Longshore {
        let policy = self.policy(identity);
        let home = scratch.path("home");
        let settings = home.join(".config/containers/registries.d");
        fs::create_dir_all(&settings).unwrap();
        let lookaside = json!({ "default-docker": { "lookaside": self.address } });
        // JSON is also valid YAML.
        fs::write(settings.join("test.yaml"), lookaside.to_string()).unwrap();
        let dest = scratch.layout("image").tagged("v1");
        scratch
            .pull(skopeo, image, &dest)
            .args(["--policy", policy.to_str().unwrap()])
            .env("HOME", home.to_str().unwrap())
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // Signing has started an agent for each home.
        for who in ["right", "wrong"] {
            let mut kill = Command::new("gpgconf");
            kill.env("GNUPGHOME", self.folder.path().join(who));
            let _ = kill.args(["--kill", "gpg-agent"]).output();
        }
    }
}

/// Serves the files of a folder.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            // A client that has gone away is ignored.
            let _ = answer(&folder, connection.unwrap());
        }
    });
    address
}

fn answer(folder: &Path, mut connection: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let path = path.replace("%3D", "=").replace("%40", "@");
    let (status, body) = match fs::read(folder.join(path.trim_start_matches('/'))) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(&body)
}

/// The types of `signedIdentity` (containers-policy.json(5)). The first one requires exactly the given reference. With
/// the second one, a reference with a digest also accepts signatures for other names in its repository.
const IDENTITIES: [&str; 2] = ["matchExact", "matchRepoDigestOrExact"];

/// The skopeos that check a policy at all.
fn checking_skopeos() -> [Skopeo; 2] {
    let [_, middle, newest] = skopeos();
    [middle, newest]
}

#[test]
#[ignore = "needs skopeo, gpg"]
fn a_policy_that_skopeo_does_not_check_is_an_error() {
    let signer = Signer::new();
    let (served, _) = Served::image("v1", &small_image(6));
    let [oldest, ..] = skopeos();
    let scratch = Scratch::new();
    let image = served.reference("v1");
    let message = signer
        .pull(&scratch, &oldest, &image, IDENTITIES[0])
        .run()
        .failed(1);
    assert!(
        message.contains("a signature policy needs skopeo 1.13 or later"),
        "{message}"
    );
    assert!(message.contains("use a newer skopeo"), "{message}");
    assert_eq!(served.registry.manifest_gets(), 0);
}

/// Sets the policy of the user, instead of one that refuses everything.
fn with_own_policy(scratch: &Scratch, run: Longshore, policy: &str) -> Longshore {
    let home = scratch.path("home-with-policy");
    let folder = home.join(".config/containers");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("policy.json"), policy).unwrap();
    run.env("HOME", home.to_str().unwrap())
}

#[test]
#[ignore = "needs skopeo"]
fn each_pull_warns_of_an_unchecked_system_policy() {
    const REJECT: &str = r#"{"default": [{"type": "reject"}]}"#;
    const ACCEPT: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    let (served, _) = Served::image("v1", &small_image(7));
    let image = served.reference("v1");
    let [oldest, ..] = skopeos();
    let scratch = Scratch::new();
    let warning = "longshore: warning: this skopeo does not check the signature policy";
    for (policy, options, warned) in [
        (REJECT, &[][..], true),
        (REJECT, &["--insecure-policy"], false),
        (ACCEPT, &[], false),
    ] {
        let pull = scratch.pull(&oldest, &image, "oci:image");
        for run in [pull.arg("--quiet"), scratch.inspect(&oldest, &image)] {
            let run = with_own_policy(&scratch, run, policy);
            let run = run.args(options.iter().copied()).run();
            assert_eq!(run.status.code(), Some(0), "{run}");
            assert_eq!(run.stderr.contains(warning), warned, "{run}");
        }
    }
    // `--require-policy` turns this into an error. A skopeo that checks the policy needs no warning.
    for skopeo in skopeos() {
        let pull = scratch.pull(&skopeo, &image, "oci:required");
        let pull = with_own_policy(&scratch, pull, REJECT).arg("--require-policy");
        let message = pull.run().failed(1);
        let reason = match skopeo.protocol {
            "0.2.3" => "a signature policy needs skopeo 1.13 or later",
            _ => "is rejected by policy",
        };
        assert!(
            message.contains(reason) && !message.contains("warning"),
            "{message}"
        );
    }
}

#[test]
#[ignore = "needs skopeo, gpg"]
fn a_signed_image_is_accepted_with_one_or_many_proxies() {
    let signer = Signer::new();
    let many = (0..30).fold(small_image(1), |image, n| image.layer_random(1000, 100 + n));
    let (served, image) = Served::image("v1", &many);
    signer.sign("right", &served, "v1", &image);
    for skopeo in checking_skopeos() {
        for identity in IDENTITIES {
            for proxies in ["1", "8"] {
                let scratch = Scratch::new();
                let pull = signer.pull(&scratch, &skopeo, &served.reference("v1"), identity);
                let report = pull.args(["--proxies", proxies]).report();
                // How many proxies do some work depends on timing.
                let several = report["proxies"].as_u64().unwrap() > 1;
                assert_eq!(several, proxies == "8", "{skopeo:?} {identity}");
                scratch.layout("image").assert_valid();
            }
        }
    }
}

/// Checks that the pull fails with the reason of the policy, and at once.
#[track_caller]
fn assert_refused(signer: &Signer, served: &Served, why: &str, reasons: &[&str]) {
    for skopeo in checking_skopeos() {
        for proxies in ["1", "8"] {
            let scratch = Scratch::new();
            let before = served.registry.manifest_gets();
            let pull = signer.pull(&scratch, &skopeo, &served.reference("v1"), IDENTITIES[1]);
            let message = pull.args(["--proxies", proxies]).run().failed(1);
            let named = reasons.iter().any(|reason| message.contains(reason));
            assert!(named, "{why}: {message}");
            assert!(message.contains("--policy"), "{why} has no hint: {message}");
            let asked = served.registry.manifest_gets() - before;
            // Further proxies may have begun, each with a try of its own.
            let most = proxies.parse().unwrap();
            assert!(asked <= most, "{why} was tried again: {message}");
            assert!(!scratch.layout("image").folder().exists());
        }
    }
}

#[test]
#[ignore = "needs skopeo, gpg"]
fn an_unsigned_image_is_refused_with_the_policys_reason() {
    let signer = Signer::new();
    let (served, _) = Served::image("v1", &small_image(2));
    assert_refused(&signer, &served, "unsigned", &["A signature was required"]);
}

#[test]
#[ignore = "needs skopeo, gpg"]
fn an_image_signed_by_another_key_is_refused() {
    let signer = Signer::new();
    let (served, image) = Served::image("v1", &small_image(3));
    signer.sign("wrong", &served, "v1", &image);
    assert_refused(&signer, &served, "another key", &["ignature"]);
}

#[test]
#[ignore = "needs skopeo, gpg"]
fn a_tag_that_was_swapped_is_refused() {
    let signer = Signer::new();
    let (served, image) = Served::image("v1", &small_image(4));
    signer.sign("right", &served, "v1", &image);
    let scratch = Scratch::new();
    let pull = signer.pull(
        &scratch,
        &newest_skopeo(),
        &served.reference("v1"),
        IDENTITIES[1],
    );
    pull.run().succeeded();

    let other = served.add("v1", &small_image(5));
    assert_refused(&signer, &served, "swapped", &["A signature was required"]);

    // Somebody who can swap a tag may be able to copy a signature, too.
    fs::rename(signer.place(&image), signer.place(&other)).unwrap();
    assert_refused(
        &signer,
        &served,
        "swapped, with its signature",
        &["ignature"],
    );
}
