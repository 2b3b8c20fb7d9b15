//! Credentials can be given in several ways, and in none of them can others on the machine see a secret.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::processes::Process;
use crate::harness::{
    Layout, Longshore, Running, Scratch, Served, Skopeo, newest_skopeo, output_of, skopeos,
    small_image,
};
use test_registry::auth::Auth;
use test_registry::server::Options;
use test_support::registry_process::RegistryProcess;

const USER: &str = "tester";
const PASSWORD: &str = "sesame-7Kq2-street";
/// The output of `htpasswd -nbBC 5 tester sesame-7Kq2-street`.
const HTPASSWD: &str = "tester:$2y$05$xHJdpxi6DQWxdG1OPz7Equ.KIXoukKXxJwc4cXn4DZUlWswYFZ2GK\n";

const REFRESH_TOKEN: &str = "refresh-me-9Zw4";
const BEARER_TOKEN: &str = "bearer-of-news-3Xv1";

/// A registry with one image, which requires the password.
fn locked_registry() -> (RegistryProcess, String) {
    let registry = RegistryProcess::with_password(HTPASSWD);
    let scratch = Scratch::new();
    let made = scratch.layout("made");
    small_image(1).write(made.folder(), "v1").unwrap();
    let reference = registry.reference("private/image:v1");
    let mut copy = Command::new(newest_skopeo().path);
    copy.args(["copy", "--quiet", "--dest-tls-verify=false"]);
    copy.args(["--dest-creds", &user_and_password()]);
    output_of(copy.args([&made.tagged("v1"), &reference]));
    (registry, reference)
}

fn user_and_password() -> String {
    format!("{USER}:{PASSWORD}")
}

/// Writes an auth file for the registry, as `skopeo login` does.
fn write_auth_file(path: &Path, registry: &RegistryProcess) {
    let auth = BASE64.encode(user_and_password());
    let file = json!({ "auths": { registry.address(): { "auth": auth } } });
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, file.to_string()).unwrap();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CredentialOption {
    Argument,
    Stdin,
    File,
    AuthFile,
    DefaultAuthFile,
}

impl CredentialOption {
    const ALL: [Self; 5] = [
        Self::Argument,
        Self::Stdin,
        Self::File,
        Self::AuthFile,
        Self::DefaultAuthFile,
    ];

    /// The pull, with the password given in this way.
    fn apply(self, pull: Longshore, scratch: &Scratch, registry: &RegistryProcess) -> Longshore {
        let file = scratch.path("given/containers/auth.json");
        let name = file.to_str().unwrap();
        match self {
            Self::Argument => pull.args(["--creds", &user_and_password()]),
            Self::Stdin => {
                let input = format!("{}\n", user_and_password());
                pull.args(["--creds", "-"]).input(&input)
            }
            Self::File => {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, user_and_password()).unwrap();
                pull.args(["--creds-file", name])
            }
            Self::AuthFile => {
                write_auth_file(&file, registry);
                pull.args(["--authfile", name])
            }
            Self::DefaultAuthFile => {
                write_auth_file(&file, registry);
                let runtime = scratch.path("given");
                pull.env("XDG_RUNTIME_DIR", runtime.to_str().unwrap())
            }
        }
    }
}

/// Checks that the text contains the secrets in no form in which they are used.
#[track_caller]
fn assert_hidden(text: &str, place: &str) {
    let secrets = [PASSWORD, REFRESH_TOKEN, BEARER_TOKEN].map(str::to_owned);
    let encoded = [
        BASE64.encode(user_and_password()),
        BASE64.encode(PASSWORD),
        BASE64.encode(REFRESH_TOKEN),
        BASE64.encode(format!("{USER}:{REFRESH_TOKEN}")),
    ];
    for secret in secrets.iter().chain(&encoded) {
        // A memory is too large to print, so only the surroundings are shown.
        if let Some(at) = text.find(secret) {
            let around: String = text[..at].chars().rev().take(300).collect();
            let around: String = around.chars().rev().collect();
            panic!("{place} shows {secret} after {around:?}");
        }
    }
}

#[track_caller]
fn assert_process_hides_all(process: &Process, name: &str) {
    assert!(!process.cmdline.is_empty());
    assert_hidden(&process.cmdline, &format!("the command line of {name}"));
    assert_hidden(&process.environ, &format!("the environment of {name}"));
}

/// Checks that nothing that the run writes, in its temporary and other folders, contains a secret.
fn assert_files_hide_all(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_files_hide_all(&path);
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert_hidden(&text, &path.display().to_string());
        }
    }
}

/// Checks the running command: the proxies and everything else that it has started, the command itself with
/// its memory, and its files.
#[track_caller]
fn assert_run_hides_all(running: &mut Running, named_on_our_command_line: bool) {
    running.proxies();
    let ours = running.process();
    for child in running.processes() {
        if child.pid != ours.pid {
            assert_process_hides_all(&child, "a child");
        }
    }
    if named_on_our_command_line {
        assert!(ours.cmdline.contains(PASSWORD), "the user put it there");
        assert_hidden(&ours.environ, "our environment");
    } else {
        assert_process_hides_all(&ours, "longshore");
        assert_memory_hides_all(ours.pid);
    }
    assert_files_hide_all(running.folder());
}

/// Checks what a core dump would contain: all writable memory that the process has not mapped from a file.
/// Skopeo has the secrets by now, so no copy may be left.
#[track_caller]
fn assert_memory_hides_all(pid: u32) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut looked_at = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let address = |hex| u64::from_str_radix(hex, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(address(end) - address(start)).unwrap()];
        // A part of the memory may have been freed meanwhile.
        if memory.read_exact_at(&mut bytes, address(start)).is_ok() {
            looked_at += bytes.len();
            assert_hidden(&String::from_utf8_lossy(&bytes), &format!("memory: {line}"));
        }
    }
    assert!(looked_at > 100_000, "{looked_at} bytes of memory were seen");
}

/// A pull with the most verbose log.
fn verbose_pull(scratch: &Scratch, skopeo: &Skopeo, image: &str, layout: &Layout) -> Longshore {
    scratch
        .pull(skopeo, image, &layout.tagged("v1"))
        .arg("-vv")
        .env("RUST_LOG", "trace")
}

#[test]
#[ignore = "needs skopeo"]
fn a_password_opens_the_registry_and_appears_nowhere() {
    let (registry, image) = locked_registry();
    for skopeo in skopeos() {
        for option in CredentialOption::ALL {
            let scratch = Scratch::new();
            let layout = scratch.layout("image");
            let pull = verbose_pull(&scratch, &skopeo, &image, &layout);
            registry.pause();
            let mut running = option.apply(pull, &scratch, &registry).start();
            assert_run_hides_all(&mut running, option == CredentialOption::Argument);
            registry.resume();

            let run = running.end().succeeded();
            assert_hidden(&run.stdout, "stdout");
            assert_hidden(&run.stderr, "stderr");
            assert!(run.stderr.contains("DEBUG longshore"), "{run}");
            assert!(run.stderr.contains("level=debug"), "{run}");
            let warned = run.stderr.contains("warning: --creds");
            assert_eq!(warned, option == CredentialOption::Argument, "{run}");
            layout.assert_valid();
            assert_files_hide_all(layout.folder());
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_password_appears_in_no_proxy_event_or_report() {
    let (registry, image) = locked_registry();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = verbose_pull(&scratch, &skopeo, &image, &layout);
        let events = scratch.path("events");
        let pull = pull.args(["--proxies", "8", "--json"]);
        let pull = pull.args(["--events", events.to_str().unwrap()]);
        registry.pause();
        let mut running = CredentialOption::Stdin
            .apply(pull, &scratch, &registry)
            .start();
        assert_run_hides_all(&mut running, false);
        registry.resume();
        let run = running.end();
        assert_hidden(&run.stdout, "the report");
        assert_hidden(&run.stderr, "stderr");
        run.report();
        let events = fs::read_to_string(events).unwrap();
        assert!(events.contains("proxy_started"), "{events}");
        assert_hidden(&events, "the events");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn list_tags_uses_a_password_that_appears_nowhere() {
    let (registry, image) = locked_registry();
    let repository = image.strip_suffix(":v1").unwrap();
    for skopeo in skopeos() {
        for option in [CredentialOption::Stdin, CredentialOption::AuthFile] {
            let scratch = Scratch::new();
            let list = scratch
                .longshore()
                .args(["list-tags", "--tls-verify=false"]);
            let list = list.args(["--skopeo", skopeo.path.to_str().unwrap(), repository]);
            let list = list.arg("-vv").env("RUST_LOG", "trace");
            registry.pause();
            let mut running = option.apply(list, &scratch, &registry).start();
            let ours = running.pid();
            running.wait_until("skopeo asks for the tags", |running| {
                let asks = |process: &Process| process.cmdline.contains("list-tags");
                let mut children = running.processes();
                children.retain(|process| process.pid != ours);
                children.iter().any(asks)
            });
            for process in running.processes() {
                if process.pid != ours {
                    assert_process_hides_all(&process, "a child");
                }
            }
            assert_files_hide_all(running.folder());
            registry.resume();
            let run = running.end().succeeded();
            assert_eq!(run.stdout, "v1\n");
            assert_hidden(&run.stderr, "stderr");
        }
        let scratch = Scratch::new();
        let list = scratch
            .longshore()
            .args(["list-tags", "--tls-verify=false"]);
        let list = list.args(["--skopeo", skopeo.path.to_str().unwrap(), repository]);
        let message = list.run().failed(1);
        assert!(
            message.contains(
                "no credentials were given, and no auth file has any for this registry: --authfile"
            ),
            "{message}"
        );
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_identity_token_opens_the_registry_and_appears_nowhere() {
    let served = Served::with(Options {
        auth: Auth {
            basic: Some((USER.to_owned(), PASSWORD.to_owned())),
            bearer: Some(BEARER_TOKEN.to_owned()),
            refresh_token: Some(REFRESH_TOKEN.to_owned()),
        },
        ..Options::default()
    });
    let image = served.add("v1", &small_image(2));
    let first = image.layers[0].digest();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let token = scratch.path("token");
        fs::write(&token, format!("{REFRESH_TOKEN}\n")).unwrap();
        let pull = || {
            verbose_pull(&scratch, &skopeo, &served.reference("v1"), &layout)
                .args(["--registry-token-file", token.to_str().unwrap()])
        };

        served.faults(&["blob#0:stall=half"]);
        let before = served.registry.blob_gets(first);
        let mut running = pull().start();
        running.wait_until("it has got in, and fetches a layer", |_| {
            served.registry.blob_gets(first) > before
        });
        assert_run_hides_all(&mut running, false);
        running.signal(Signal::SIGINT);
        assert_hidden(&running.end().failed(130), "stderr");

        served.faults(&[]);
        let run = pull().run().succeeded();
        assert_hidden(&run.stdout, "stdout");
        assert_hidden(&run.stderr, "stderr");
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn without_credentials_the_registry_refuses() {
    let (registry, image) = locked_registry();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = || scratch.pull(&skopeo, &image, &layout.tagged("v1"));
        let none = pull();
        let empty = scratch.path("empty");
        fs::write(&empty, "{}").unwrap();
        // There are default credentials, which must not be used.
        let unused =
            CredentialOption::DefaultAuthFile.apply(pull().arg("--no-creds"), &scratch, &registry);
        let table = [
            (
                none,
                "no credentials were given, and no auth file has any for this registry: --authfile",
            ),
            (unused, "--no-creds forbids them"),
            (
                pull().args(["--authfile", empty.to_str().unwrap()]),
                "the auth file that was given has no credentials for this registry",
            ),
        ];
        for (run, hint) in table {
            let message = run.run().failed(1);
            assert!(message.contains(&image), "{message}");
            assert!(message.contains("authentication required"), "{message}");
            assert!(message.contains(hint), "{message}");
            assert!(!layout.folder().exists());
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_wrong_password_is_reported_and_not_shown() {
    let (_registry, image) = locked_registry();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let message = scratch
            .pull(&skopeo, &image, &layout.tagged("v1"))
            .args(["--creds", "-"])
            .input("tester:not-the-password\n")
            .run()
            .failed(1);
        let hint = "does not accept the credentials that were given";
        assert!(message.contains(hint), "{message}");
        assert!(!message.contains("not-the-password"), "{message}");
    }
}

/// skopeo treats an empty variable as one that is not set, and so finds the login in the home folder.
#[test]
#[ignore = "needs skopeo"]
fn a_wrong_login_of_a_default_auth_file_is_tried_once_even_if_variables_are_empty() {
    for skopeo in skopeos() {
        let served = Served::with(Options {
            auth: Auth {
                basic: Some((USER.to_owned(), PASSWORD.to_owned())),
                bearer: Some(BEARER_TOKEN.to_owned()),
                refresh_token: None,
            },
            ttfb: Duration::from_millis(50),
            ..Options::default()
        });
        let image = served.reference("v");
        let (host, _) = image["docker://".len()..].split_once('/').unwrap();
        let scratch = Scratch::new();
        let home = scratch.path("home");
        let auth = BASE64.encode(format!("{USER}:wrong"));
        let file = json!({ "auths": { host: { "auth": auth } } });
        fs::create_dir_all(home.join(".docker")).unwrap();
        fs::write(home.join(".docker/config.json"), file.to_string()).unwrap();
        let list: Vec<String> = (0..20).map(|number| format!("{image}{number}")).collect();
        fs::write(scratch.path("list"), list.join("\n")).unwrap();
        let pull = scratch.longshore().env("HOME", home.to_str().unwrap());
        let pull = pull.args(["pull", "--quiet", "--tls-verify=false", "--skopeo"]);
        let pull = pull.args([skopeo.path.to_str().unwrap(), "--from", "list", "oci:x"]);
        let variables = [
            "REGISTRY_AUTH_FILE",
            "XDG_RUNTIME_DIR",
            "XDG_CONFIG_HOME",
            "DOCKER_CONFIG",
        ];
        let pull = variables.iter().fold(pull, |pull, name| pull.env(name, ""));
        pull.run().failed(1);
        let requests = served.registry.requests();
        let logins = requests.iter().filter(|one| one.path.contains("/token"));
        assert_eq!(logins.count(), 1, "{}", skopeo.protocol);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn inspect_takes_the_same_credentials() {
    let (registry, image) = locked_registry();
    for skopeo in skopeos() {
        for option in CredentialOption::ALL {
            let scratch = Scratch::new();
            let inspect = scratch.inspect(&skopeo, &image);
            let run = option.apply(inspect, &scratch, &registry).run().succeeded();
            assert!(run.stdout.contains("linux/amd64"), "{run}");
            assert_hidden(&run.stderr, "stderr");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn reading_a_password_can_be_interrupted() {
    let scratch = Scratch::new();
    let mut pull = scratch
        .pull(&newest_skopeo(), "docker://127.0.0.1:1/a", "oci:image")
        .args(["--creds", "-"])
        .env("RUST_LOG", "longshore=debug")
        .input("tester:not-a-whole-line")
        .start();
    pull.wait_until("it reads the password", |pull| {
        pull.stderr().contains("reading credentials from stdin")
    });
    pull.signal(Signal::SIGINT);
    let run = pull.end();
    assert_eq!(run.status.signal(), Some(Signal::SIGINT as i32), "{run}");
}

/// A pipe that is written once, so that what is read from it is gone.
fn pipe_with(scratch: &Scratch, name: &str, content: Vec<u8>) -> String {
    let path = scratch.path(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let writer = path.clone();
    // The writer waits for its reader.
    std::thread::spawn(move || fs::write(writer, content));
    path.to_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn all_proxies_use_an_auth_file_that_can_be_read_only_once() {
    let (registry, image) = locked_registry();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let file = scratch.path("auth.json");
        write_auth_file(&file, &registry);
        let content = fs::read(&file).unwrap();
        let pull = |layout: &str| {
            let pull = scratch.pull(&skopeo, &image, layout);
            pull.args(["--proxies", "3", "--json"])
        };
        let pipe = pipe_with(&scratch, "pipe", content.clone());
        let given = pull("oci:given").args(["--authfile", &pipe]);
        let pipe = pipe_with(&scratch, "pipe-2", content);
        let in_environment = pull("oci:in-environment").env("REGISTRY_AUTH_FILE", &pipe);
        let script = r#"exec "$@" < auth.json"#;
        let stdin = pull("oci:stdin").args(["--authfile", "/dev/stdin"]);
        let stdin = stdin.under("sh", ["-c", script, "sh"]);
        for run in [given, in_environment, stdin] {
            let report = run.run().report();
            assert!(report["proxies"].as_u64() > Some(1), "{report}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn all_proxies_use_a_policy_that_can_be_read_only_once() {
    let (served, _) = Served::image("v1", &small_image(1));
    let [_, newer @ ..] = skopeos();
    for skopeo in newer {
        let scratch = Scratch::new();
        for (policy, code) in [("insecureAcceptAnything", 0), ("reject", 1)] {
            let content = json!({ "default": [{ "type": policy }] }).to_string();
            let pipe = pipe_with(&scratch, policy, content.into_bytes());
            let pull = scratch.pull(&skopeo, &served.reference("v1"), "oci:image");
            let run = pull.args(["--proxies", "3", "--policy", &pipe]).run();
            assert_eq!(run.status.code(), Some(code), "{run}");
        }
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn credentials_that_skopeo_would_ignore_are_refused_with_advice() {
    let (_registry, image) = locked_registry();
    let scratch = Scratch::new();
    let home = scratch.path("home-with-helpers");
    let conf = home.join(".config/containers/registries.conf");
    fs::create_dir_all(conf.parent().unwrap()).unwrap();
    let pull = |helpers: &str| {
        fs::write(&conf, format!("credential-helpers = {helpers}\n")).unwrap();
        let pull = scratch.pull(&newest_skopeo(), &image, "oci:image");
        let input = format!("{}\n", user_and_password());
        let pull = pull.env("HOME", home.to_str().unwrap());
        pull.args(["--creds", "-"]).input(&input).run()
    };
    let message = pull(r#"["secretservice"]"#).failed(2);
    for words in [
        "credentials: ",
        conf.to_str().unwrap(),
        "ask secretservice",
        "containers-auth.json",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    pull(r#"["containers-auth.json", "secretservice"]"#).succeeded();
    pull("[]").succeeded();
}
