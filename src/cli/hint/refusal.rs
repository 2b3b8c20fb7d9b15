//! The advice for a refusal, by its kind and by the words of skopeo. Pure.

use longshore::{Refusal, RefusalKind};

use super::{Login, TRY_AGAIN};

/// The advice for a machine without a signature policy.
pub(in crate::cli) const NO_POLICY: &str = "install containers-common, or write /etc/containers/policy.json (see \
     containers-policy.json(5)); or use --policy FILE, or --insecure-policy to accept every image";

/// The words before the path of a settings file that skopeo can't understand, and the manual page of that file.
const WRONG_FILES: [(&str, &str); 3] = [
    ("invalid policy in", "containers-policy.json(5)"),
    (
        "loading registries configuration",
        "containers-registries.conf(5)",
    ),
    ("unmarshaling JSON at", "containers-auth.json(5)"),
];

const NO_BLOB: &str =
    "the registry does not have this blob; was it removed there, or is the digest wrong?";
const DENIED: &str =
    "the image does not exist, or needs credentials: --authfile, --creds-file or --creds -";
const UNAUTHORIZED: &str =
    "give credentials that the registry accepts: --authfile, --creds-file or --creds -";
const UNREADABLE: &str =
    "this user may not use that file; change its permissions, or run the command as another user";
const UNREADABLE_AUTH_FILE: &str = "this user may not read that auth file; change its permissions, set XDG_RUNTIME_DIR \
     if the file is in /run/containers, or name another one with --authfile";
const POLICY: &str = "the signature policy (--policy) decides what is accepted";
const REGISTRY_FAILED: &str = "the registry has trouble; try again later";
const NO_BASE64: &str = "an entry of the auth file is not USER:PASS in base64; log in anew with skopeo login, which writes the entry";
const NO_PEM: &str = "a file *.cert or *.key of this registry has no PEM data; it is in the folder of --cert-dir, or \
     in /etc/containers/certs.d";
const HTML: &str = "the answer is a web page (HTML), as if this were no registry; are host and port of the registry right?";
const NOT_REACHED: &str = "is the registry's name right, and does the registry run?";

/// Returns the advice for a refusal, if there is any.
pub(super) fn hint_of_refusal(refusal: &Refusal, login: Login) -> Option<String> {
    hint_of(refusal.kind(), &refusal.message, login)
}

fn hint_of(kind: RefusalKind, message: &str, login: Login) -> Option<String> {
    if let Some(file) = wrong_file(message) {
        return Some(file);
    }
    let message_contains = |words| message.contains(words);
    let known = match kind {
        RefusalKind::Tls if message_contains("server gave HTTP response") => {
            Some("the registry speaks plain HTTP; --tls-verify=false allows it")
        }
        RefusalKind::Tls => Some(hint_of_certificate(message)),
        RefusalKind::Unauthorized => Some(hint_of_unauthorized(login)),
        RefusalKind::NotFound => Some(NO_BLOB),
        RefusalKind::Denied => Some(hint_of_denied(login)),
        RefusalKind::Unreadable => Some(hint_of_unreadable(message)),
        RefusalKind::Throttled => Some("the registry wants you to wait, or to log in"),
        RefusalKind::Policy if message_contains("no policy.json file found") => Some(NO_POLICY),
        RefusalKind::Policy => Some(POLICY),
        RefusalKind::Unavailable => Some(REGISTRY_FAILED),
        RefusalKind::Unreachable => Some(hint_of_unreachable(message)),
        RefusalKind::Invalid if message_contains("no image found in") => Some(
            "inspect --platform all lists the platforms that the image has; --platform chooses one",
        ),
        _ if message_contains("illegal base64 data") => Some(NO_BASE64),
        _ if message_contains("tls: ") && message_contains("PEM data") => Some(NO_PEM),
        _ if message_contains("invalid character '<' looking for beginning") => Some(HTML),
        _ if message_contains("unexpected EOF") || message_contains("connection reset") => {
            Some(TRY_AGAIN)
        }
        _ => None,
    };
    known.map(str::to_owned)
}

/// Returns the advice for a settings file that skopeo can't understand. skopeo's message quotes the path of the file.
fn wrong_file(message: &str) -> Option<String> {
    let (words, manual) = WRONG_FILES
        .into_iter()
        .find(|(words, _)| message.contains(words))?;
    let (_, rest) = message.rsplit_once(words)?;
    let file = rest.trim_start().strip_prefix('"')?.split('"').next()?;
    Some(format!("correct {file}; {manual} describes it"))
}

/// Returns the advice for a certificate of a registry that is not accepted. Only a certificate whose signer is unknown is
/// accepted with other files on this machine.
fn hint_of_certificate(message: &str) -> &'static str {
    let has = |words: &&str| message.contains(words);
    let other_name = [
        "certificate is valid for",
        "certificate is not valid for any names",
        "any IP SANs",
    ];
    if other_name.iter().any(has) {
        "the registry's certificate is not made for this name or address, so --cert-dir does not help; use a name for \
         which it is made"
    } else if message.contains("has expired or is not yet valid") {
        "the registry needs a new certificate, or the clock of this machine is wrong"
    } else {
        "this machine does not trust the signer of the registry's certificate; --cert-dir names a folder with the \
         signer's certificate, as a file *.crt"
    }
}

/// Returns the advice for a registry that can't be reached.
fn hint_of_unreachable(message: &str) -> &'static str {
    if message.contains("proxyconnect ") {
        "the proxy that HTTPS_PROXY or HTTP_PROXY names does not answer; is the variable right?"
    } else if message.contains("network is unreachable") {
        "is this machine connected to the network?"
    } else {
        NOT_REACHED
    }
}

/// Returns the advice for a file on this machine that this user may not read.
fn hint_of_unreadable(message: &str) -> &'static str {
    if message.contains("getting username and password") {
        UNREADABLE_AUTH_FILE
    } else {
        UNREADABLE
    }
}

fn hint_of_unauthorized(login: Login) -> &'static str {
    match login {
        Login::Given => "the registry does not accept the credentials that were given",
        Login::Forbidden => "the registry wants credentials, and --no-creds forbids them",
        Login::FromGivenFile => {
            "the auth file that was given has no credentials that the registry accepts"
        }
        Login::FromFiles => UNAUTHORIZED,
    }
}

fn hint_of_denied(login: Login) -> &'static str {
    match login {
        Login::Given => "these credentials give no access to the image, or it does not exist",
        Login::Forbidden => {
            "the image does not exist, or needs credentials, and --no-creds forbids them"
        }
        Login::FromGivenFile => {
            "the image does not exist, or the auth file that was given has no credentials for it"
        }
        Login::FromFiles => DENIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_advice(kind: RefusalKind, message: &str, expected: &str) {
        let advice = hint_of(kind, message, Login::FromFiles).unwrap_or_default();
        assert!(advice.starts_with(expected), "{message}: {advice}");
    }

    #[test]
    fn options_for_credentials_are_advised_only_if_none_was_given() {
        let advises = |hint: &str| hint.contains("--authfile");
        let all = [
            Login::Given,
            Login::Forbidden,
            Login::FromGivenFile,
            Login::FromFiles,
        ];
        for login in all {
            let expected = login == Login::FromFiles;
            assert_eq!(advises(hint_of_unauthorized(login)), expected, "{login:?}");
            assert_eq!(advises(hint_of_denied(login)), expected, "{login:?}");
        }
    }

    #[test]
    fn the_advice_depends_on_the_reason_of_a_registry_that_is_not_used() {
        let table = [
            (
                RefusalKind::Tls,
                "x509: certificate signed by unknown authority",
                "this machine does not trust the signer",
            ),
            (
                RefusalKind::Tls,
                "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
                "the registry's certificate is not made for this name",
            ),
            (
                RefusalKind::Tls,
                "x509: certificate is valid for a.b, not c.d",
                "the registry's certificate is not made for this name",
            ),
            (
                RefusalKind::Tls,
                "x509: certificate has expired or is not yet valid: current time",
                "the registry needs a new certificate",
            ),
            (
                RefusalKind::Invalid,
                "tls: failed to find any PEM data in key input",
                "a file *.cert or *.key",
            ),
            (
                RefusalKind::Invalid,
                "getting username and password: illegal base64 data at input byte 2",
                "an entry of the auth file",
            ),
            (
                RefusalKind::Other,
                "invalid character '<' looking for beginning of value",
                "the answer is a web page",
            ),
            (
                RefusalKind::Unreachable,
                "proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused",
                "the proxy that HTTPS_PROXY",
            ),
            (
                RefusalKind::Unreachable,
                "dial udp 10.0.0.1:53: connect: network is unreachable",
                "is this machine connected",
            ),
            (
                RefusalKind::Unreachable,
                "connect: connection refused",
                "is the registry's name right",
            ),
        ];
        for (kind, message, expected) in table {
            assert_advice(kind, message, expected);
        }
    }

    #[test]
    fn a_settings_file_that_is_wrong_is_named() {
        let table = [
            (
                RefusalKind::Policy,
                "invalid policy in \"p.json\": Default policy is missing",
                "correct p.json; containers-policy.json(5)",
            ),
            (
                RefusalKind::Invalid,
                "loading registries configuration: loading registries configuration \"/a/r.conf\": toml: line 1 (last \
                 key \"b\"): unexpected EOF; expected value",
                "correct /a/r.conf; containers-registries.conf(5)",
            ),
            (
                RefusalKind::Invalid,
                "getting username and password: reading JSON file \"a\": unmarshaling JSON at \"a\": invalid character",
                "correct a; containers-auth.json(5)",
            ),
            (
                RefusalKind::Policy,
                "no policy.json file found at any of the following: \"/a\", \"/b\"",
                "install containers-common",
            ),
        ];
        for (kind, message, expected) in table {
            assert_advice(kind, message, expected);
        }
    }
}
