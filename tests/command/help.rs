//! Completions, the manual, and the variables that the help names. None of these needs skopeo.

use std::fs;
use std::process::Command;

use crate::harness::{Longshore, Scratch, output_of};

const COMMANDS: [&str; 11] = [
    "pull",
    "inspect",
    "digest",
    "blob",
    "export",
    "verify",
    "prune",
    "list-tags",
    "doctor",
    "completions",
    "man",
];

/// The command, with no skopeo to be found.
fn without_skopeo(scratch: &Scratch) -> Longshore {
    scratch.longshore().env("PATH", "/nowhere")
}

#[test]
fn completions_name_every_command() {
    let scratch = Scratch::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = without_skopeo(&scratch).args(["completions", shell]).run();
        let script = run.succeeded().stdout;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let run = without_skopeo(&scratch).args(["completions", "tcsh"]).run();
    assert!(run.failed(2).contains("zsh"));
}

#[test]
fn bash_accepts_its_completions() {
    let scratch = Scratch::new();
    let run = without_skopeo(&scratch).args(["completions", "bash"]).run();
    let path = scratch.path("completions");
    fs::write(&path, run.succeeded().stdout).unwrap();
    output_of(Command::new("bash").arg("-n").arg(&path));
    let completed = format!(
        "source {}; COMP_WORDS=(longshore pull --tim); COMP_CWORD=2; \
         _longshore longshore --tim pull; echo \"${{COMPREPLY[*]}}\"",
        path.display()
    );
    let words = output_of(Command::new("bash").args(["-c", &completed]));
    let words = String::from_utf8(words).unwrap();
    assert_eq!(words.trim(), "--timeline --timeline-axis");
}

#[test]
fn every_page_of_the_manual_is_complete() {
    let scratch = Scratch::new();
    let folder = scratch.path("man1");
    fs::create_dir(&folder).unwrap();
    without_skopeo(&scratch)
        .args(["man", "man1"])
        .run()
        .succeeded();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1 + COMMANDS.len());
    let pages = COMMANDS.map(|command| format!("longshore-{command}"));
    for page in pages.iter().map(String::as_str).chain(["longshore"]) {
        let path = folder.join(format!("{page}.1"));
        let text = fs::read_to_string(&path).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES"] {
            assert!(
                text.contains(&format!(".SH {section}\n")),
                "{page}: {section}"
            );
        }
        assert!(text.contains(".TH LONGSHORE"), "{page}");
        // Not every machine has groff. Its warnings are on stderr.
        let groff = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww"])
            .arg(&path)
            .output();
        if let Ok(rendered) = groff {
            let warnings = String::from_utf8_lossy(&rendered.stderr);
            assert_eq!(warnings, "", "{page}");
            assert!(rendered.stdout.len() > 200, "{page}");
        }
    }
    let printed = without_skopeo(&scratch).arg("man").run().succeeded().stdout;
    let main = fs::read_to_string(folder.join("longshore.1")).unwrap();
    assert_eq!(printed, main);
    for section in ["ENVIRONMENT", "EXIT STATUS"] {
        assert!(main.contains(section), "{section}");
    }
}

#[test]
fn the_manual_needs_a_folder_that_exists() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "").unwrap();
    for (folder, words) in [("missing", "No such file"), ("file", "it is no folder")] {
        let run = without_skopeo(&scratch).args(["man", folder]).run();
        let message = run.failed(2);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_wrong_value_of_a_variable_is_wrong_usage_unless_an_option_overrides_it() {
    let scratch = Scratch::new();
    let pull = |options: &[&str]| {
        let pull = without_skopeo(&scratch).env("LONGSHORE_PROXIES", "many");
        let pull = pull.arg("pull").args(options.iter().copied());
        pull.args(["docker://127.0.0.1:1/a/b", "oci:x"]).run()
    };
    let message = pull(&[]).failed(2);
    assert!(message.contains("LONGSHORE_PROXIES"), "{message}");
    pull(&["--proxies", "2"]).failed(1);
}

#[test]
fn a_variable_names_the_skopeo_program() {
    let scratch = Scratch::new();
    let inspect = |options: &[&str]| {
        let inspect = scratch.longshore().env("LONGSHORE_SKOPEO", "/nowhere/a");
        let inspect = inspect.arg("inspect").args(options.iter().copied());
        inspect.arg("docker://127.0.0.1:1/a/b").run().failed(1)
    };
    assert!(inspect(&[]).contains("/nowhere/a"));
    assert!(inspect(&["--skopeo", "/nowhere/b"]).contains("/nowhere/b"));
}

#[test]
fn a_variable_names_the_auth_file_unless_an_option_is_about_credentials() {
    let scratch = Scratch::new();
    let inspect = |options: &[&str]| {
        let inspect = without_skopeo(&scratch).env("LONGSHORE_AUTHFILE", "missing");
        let inspect = inspect.arg("inspect").args(options.iter().copied());
        inspect.arg("docker://127.0.0.1:1/a/b").run()
    };
    let message = inspect(&[]).failed(2);
    assert!(
        message.contains("LONGSHORE_AUTHFILE missing: No such file"),
        "{message}"
    );
    inspect(&["--no-creds"]).failed(1);
    inspect(&["--creds", "user:pass"]).failed(1);
}
