//! Refusals of the proxy, and their classification. This module does no I/O.

use std::fmt;

use crate::words::printable;

/// The refusal of a call by the proxy. The connection stays good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The class that the proxy gave the error. `None` if the proxy gave no class, as before protocol 0.2.8.
    pub code: Option<RefusalCode>,
    /// The message of the proxy, made [`printable`](crate::printable). The registry's answer can be a part of
    /// the message.
    pub message: String,
}

/// The class that the proxy gives an error: `error_code` in a reply, `code` in a blob's error pipe (protocol 0.2.8
/// and later).
///
/// skopeo's classes are narrow. HTTP 500, HTTP 429 without an error code of the OCI distribution
/// specification, and a body that ends early, come as [`Other`](Self::Other).
/// [`RefusalKind`] is more precise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCode {
    /// `EPIPE`: the read end of a pipe was closed before the proxy had written all bytes.
    BrokenPipe,
    /// `retryable`: connection errors, HTTP 502 to 504, and most errors with an error code of the OCI distribution
    /// specification. The error for a missing blob (404) is one of them.
    Retryable,
    /// `other`: every other error.
    Other,
    /// A code that this version of the library does not know.
    Unknown(String),
}

/// The reason of a refusal. The reason is found by the words in the messages of skopeo (1.9 to 1.22), by the error
/// codes of the OCI distribution specification, and by HTTP status codes.
///
/// Retries, the hints of the command and [`Error::is_retryable`](crate::Error::is_retryable) depend on this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The registry does not have the image or the blob (404).
    NotFound,
    /// The registry requires a login, or does not accept the given one (401).
    Unauthorized,
    /// The registry does not allow this login to fetch the image or the blob (403). Some registries also give this
    /// answer if the image does not exist.
    Denied,
    /// The registry limits the rate of requests (429).
    Throttled,
    /// This user may not use a file, folder or socket on this machine, such as a part of a local image, an auth file,
    /// or the socket of the docker daemon.
    Unreadable,
    /// The certificate is not trusted, or the registry does not speak TLS.
    Tls,
    /// The signature policy does not accept the image, or can't be used.
    Policy,
    /// The registry can't be reached: its name is unknown, or the host does not answer.
    Unreachable,
    /// The registry answers with a server error (500, 502, 503 or 504).
    Unavailable,
    /// The name or a setting can't be used: a wrong reference, a missing file, a blocked registry, no image for
    /// the platform.
    Invalid,
    /// Any other reason, such as a transfer that broke off.
    Other,
}

use RefusalKind::{
    Denied, Invalid, NotFound, Other, Policy, Throttled, Tls, Unauthorized, Unavailable,
    Unreachable, Unreadable,
};

/// The operations on files that Go names before the path and the reason, as in "open /a/b: permission denied".
const FILE_OPERATIONS: [&str; 12] = [
    "open",
    "openat",
    "openat2",
    "stat",
    "lstat",
    "faccessat",
    "readlink",
    "readdirent",
    "mkdir",
    "mkdirat",
    "unlinkat",
    "fork/exec",
];

/// The words by which a message is classified, in lower case. The first entry that occurs in the message decides.
/// "denied:" is an error code of the OCI distribution specification. It comes before "unauthorized", because
/// registries return both if a valid login is not allowed to fetch the image.
const WORDS: [(&str, RefusalKind); 45] = [
    ("server gave http response to https client", Tls),
    ("x509", Tls),
    ("toomanyrequests", Throttled),
    ("too many requests", Throttled),
    ("denied:", Denied),
    ("invalid username/password", Unauthorized),
    ("unauthorized", Unauthorized),
    ("authentication required", Unauthorized),
    ("denied", Denied),
    ("blob unknown", NotFound),
    ("manifest unknown", NotFound),
    ("name unknown", NotFound),
    ("no such file", Invalid),
    ("signature was required", Policy),
    ("signatures were accepted", Policy),
    ("signature for identity", Policy),
    ("signature for digest", Policy),
    ("signature by key", Policy),
    ("invalid gpg signature", Policy),
    ("signature verification failed", Policy),
    ("rejected by policy", Policy),
    ("invalid policy in", Policy),
    ("no policy.json file found", Policy),
    ("no image found in", Invalid),
    ("name invalid", Invalid),
    ("unsupported", Invalid),
    ("not supported", Invalid),
    ("digest invalid", Invalid),
    ("stopped after 10 redirects", Invalid),
    ("getting username and password", Invalid),
    ("loading registries configuration", Invalid),
    ("is blocked in", Invalid),
    ("invalid reference format", Invalid),
    ("invalid port", Invalid),
    ("missing key", Invalid),
    ("missing certificate", Invalid),
    ("missing client certificate", Invalid),
    ("failed to find any pem data", Invalid),
    ("private key does not match public key", Invalid),
    ("connection refused", Unreachable),
    ("no such host", Unreachable),
    ("network is unreachable", Unreachable),
    ("no route to host", Unreachable),
    ("i/o timeout", Unreachable),
    ("not found", NotFound),
];

impl Refusal {
    /// Makes a refusal of a code and a message on the wire. An empty code means that the proxy gave none.
    pub(crate) fn from_wire(code: &str, message: &str) -> Self {
        Self {
            code: RefusalCode::from_wire(code),
            message: printable(message),
        }
    }

    /// Returns why the call was refused.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        let lower = self.message.to_lowercase();
        if names_unreadable_file(&lower) {
            return Unreadable;
        }
        // An image can have any name, so words with a slash are ignored. A port or a digest can contain any number, so
        // a status code must be a whole word.
        let is_considered =
            |word: &&str| !word.contains('/') || matches!(*word, "i/o" | "username/password");
        let words: Vec<&str> = lower.split(' ').filter(is_considered).collect();
        let text = words.join(" ");
        let by_words = WORDS.iter().find(|(known, _)| text.contains(known));
        let by_codes = || words.iter().find_map(|word| kind_of_status(word));
        by_words
            .map(|(_, kind)| *kind)
            .or_else(by_codes)
            .unwrap_or(Other)
    }

    /// Whether the same call may succeed later. The answer is right only for images at a registry.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let by_kind = || matches!(self.kind(), Throttled | Unreachable | Unavailable | Other);
        self.code == Some(RefusalCode::Retryable) || by_kind()
    }
}

/// Whether a message in lower case says that this user may not use a file or a local socket. A registry can also answer
/// "permission denied", but without the operation on a file before it.
fn names_unreadable_file(message: &str) -> bool {
    let parts: Vec<&str> = message.split(": ").collect();
    parts.windows(2).any(|pair| {
        // Several errors are a list, with an asterisk before each.
        let operation = pair[0].trim_start_matches([' ', '*']).split(' ').next();
        let is_on_file = operation.is_some_and(|first| FILE_OPERATIONS.contains(&first));
        let is_on_socket = pair[0] == "connect" && message.contains("dial unix ");
        pair[1].starts_with("permission denied") && (is_on_file || is_on_socket)
    })
}

/// The kind of an HTTP status code. `None` if the word is not a known code of an error.
fn kind_of_status(word: &str) -> Option<RefusalKind> {
    let code = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    Some(match code {
        "401" => Unauthorized,
        "403" => Denied,
        "404" => NotFound,
        "429" => Throttled,
        "500" | "502" | "503" | "504" => Unavailable,
        _ => return None,
    })
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str("refused without a reason")
        } else {
            f.write_str(&self.message)
        }
    }
}

impl std::error::Error for Refusal {}

impl RefusalCode {
    /// Parses a code on the wire. `None` for the empty text, which means that the proxy gave no code.
    fn from_wire(code: &str) -> Option<Self> {
        Some(match code {
            "" => return None,
            "EPIPE" => Self::BrokenPipe,
            "retryable" => Self::Retryable,
            "other" => Self::Other,
            unknown => Self::Unknown(printable(unknown)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_the_words_of_real_skopeos_and_registries() {
        let digest = format!(
            "fetching sha256:{}404{} failed strangely",
            "a".repeat(40),
            "b".repeat(21)
        );
        let table = [
            (
                "fetching blob: invalid status code from registry 500 (Internal Server Error)",
                Unavailable,
            ),
            (
                "reading manifest v1 in 127.0.0.1:40177/image: received unexpected HTTP status: \
                 500 Internal Server Error",
                Unavailable,
            ),
            ("reading signature from http://a/b: status 503", Unavailable),
            (
                "Invalid status code returned when fetching blob 429 (Too Many Requests)",
                Throttled,
            ),
            (
                "toomanyrequests: You have reached your pull rate limit.",
                Throttled,
            ),
            ("unexpected EOF", Other),
            (
                "read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer",
                Other,
            ),
            (&digest, Other),
            (
                "reading manifest v1 in quay.io/denied/unauthorized: unexpected EOF",
                Other,
            ),
            ("fetching blob: blob unknown to registry", NotFound),
            (
                "Invalid status code returned when fetching blob 404 (Not Found)",
                NotFound,
            ),
            ("reading manifest v1 in x: manifest unknown", NotFound),
            ("open index.json: no such file or directory", Invalid),
            (
                "Docker references with both a tag and digest are currently not supported",
                Invalid,
            ),
            ("unauthorized: HTTP Basic: Access denied", Unauthorized),
            (
                "unable to retrieve auth token: unauthorized: authentication required",
                Unauthorized,
            ),
            (
                "unable to retrieve auth token: invalid username/password: unauthorized",
                Unauthorized,
            ),
            ("requesting it: status: 401", Unauthorized),
            (
                "errors: denied: requested access to the resource is denied, unauthorized: \
                 authentication required",
                Denied,
            ),
            (
                "Error fetching blob: invalid status code from registry 403 (Forbidden)",
                Denied,
            ),
            ("A signature was required, but no signature exists", Policy),
            (
                "Running image docker://a/b:c is rejected by policy.",
                Policy,
            ),
            (
                "pinging container registry x: http: server gave HTTP response to HTTPS client",
                Tls,
            ),
            (
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
                Tls,
            ),
            (
                "dial tcp 127.0.0.1:40412: connect: connection refused",
                Unreachable,
            ),
            ("dial tcp: lookup x: i/o timeout", Unreachable),
            (
                "no image found in image index for architecture \"x\"",
                Invalid,
            ),
            ("", Other),
        ];
        for (message, kind) in table {
            assert_eq!(
                Refusal::from_wire("other", message).kind(),
                kind,
                "{message}"
            );
        }
    }

    #[test]
    fn a_refusal_that_the_proxy_marks_retryable_is_transient() {
        for (code, message, expected) in [
            ("retryable", "manifest unknown", true),
            ("other", "manifest unknown", false),
            ("", "unexpected EOF", true),
        ] {
            assert_eq!(
                Refusal::from_wire(code, message).is_transient(),
                expected,
                "{message}"
            );
        }
    }

    #[test]
    fn a_file_that_may_not_be_read_is_not_the_registrys_refusal() {
        let table = [
            (
                "creating temp directory: open /a/b c.tar: permission denied",
                Unreadable,
            ),
            ("faccessat a/b: permission denied", Unreadable),
            (
                "getting username and password: reading JSON file \"/run/containers/0/auth.json\": \
                 open /run/containers/0/auth.json: permission denied",
                Unreadable,
            ),
            (
                "2 errors occurred:  * open /a/auth.json: permission denied  * open /b: is a directory",
                Unreadable,
            ),
            (
                "Get \"http://%2Fvar%2Frun%2Fdocker.sock/v1.22/images/get\": dial unix \
                 /var/run/docker.sock: connect: permission denied",
                Unreadable,
            ),
            ("denied: permission denied for a/open", Denied),
        ];
        for (message, kind) in table {
            assert_eq!(
                Refusal::from_wire("other", message).kind(),
                kind,
                "{message}"
            );
        }
    }
}
