//! The faults that a test can ask for: which requests they hit, and what they do to the replies.
//!
//! These are plain data. `fault_text` parses them from text, and `inject` carries them out.

use std::time::Duration;

use super::layout::Role;
use super::pull::Endpoint;

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The requests that the fault hits.
    pub target: Target,
    /// The effect of the fault on these requests.
    pub kind: FaultKind,
    /// How many requests the fault hits before it is over. `None` means all of them.
    pub times: Option<u32>,
}

/// The requests that a fault hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every request.
    Any,
    /// The endpoint `/v2/`.
    Ping,
    /// Every manifest and index, by tag or digest.
    Manifest,
    /// Every blob: layers and configurations.
    Blob,
    /// The blob with this digest.
    BlobDigest(String),
    /// The layer with this number in any of the layout's images. Numbers are zero-based, and each digest is
    /// counted once.
    Layer(usize),
    /// The configuration of any of the layout's images.
    Config,
}

/// The effect of a fault on a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Answers with an error instead.
    Status {
        /// The status code.
        code: u16,
        /// The seconds in a `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// Answers 429 to requests above this rate.
    Rate {
        /// How many requests may pass in any second.
        limit: usize,
        /// The seconds in a `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// Redirects to the same place.
    RedirectLoop,
    /// Never answers at all.
    HeadersNever,
    /// Holds the headers back for this long.
    LateHeaders(Duration),
    /// Stops sending at this point of the body, and keeps the connection open.
    Stall(Point),
    /// Sends nothing for this long in the middle of the body, and then goes on.
    Gap(Duration),
    /// Sends the body byte by byte, and waits this long after each.
    Trickle(Duration),
    /// Closes the connection at this point of the body. The headers announced a longer body.
    Cut(Point),
    /// Resets the connection at this point of the body.
    Reset(Point),
    /// Flips the byte at this offset. `None` means the byte in the middle.
    Corrupt(Option<u64>),
    /// Sends a body that is longer than the descriptor says.
    Longer {
        /// The number of additional bytes.
        by: u64,
        /// Whether the headers omit the length, instead of stating the length of the body that is sent.
        chunked: bool,
    },
    /// Sends a body that is shorter than the descriptor says.
    Shorter {
        /// The number of missing bytes.
        by: u64,
        /// Whether the headers omit the length, instead of stating the length of the body that is sent.
        chunked: bool,
    },
    /// Sends the whole body after a `Content-Length` with this value.
    ContentLength(u64),
    /// Sends a body that is not JSON.
    NotJson,
    /// Fills up a manifest with spaces to this many bytes. The manifest stays valid, except for its digest.
    BigManifest(u64),
}

/// A position in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// After this many bytes.
    Byte(u64),
    /// In the middle.
    Half,
    /// Before the last byte.
    Last,
}

impl Target {
    /// Whether the fault hits a request. `roles` are those of the requested blob in the layout's manifests.
    pub fn matches(&self, endpoint: &Endpoint, roles: &[Role]) -> bool {
        match (self, endpoint) {
            (Self::Any, _)
            | (Self::Ping, Endpoint::Ping)
            | (Self::Manifest, Endpoint::Manifest(_))
            | (Self::Blob, Endpoint::Blob(_)) => true,
            (Self::BlobDigest(wanted), Endpoint::Blob(digest)) => wanted == digest,
            (Self::Layer(number), Endpoint::Blob(_)) => roles.contains(&Role::Layer(*number)),
            (Self::Config, Endpoint::Blob(_)) => roles.contains(&Role::Config),
            _ => false,
        }
    }
}

impl FaultKind {
    /// Whether the fault changes the body, so that it does not hit requests for the headers alone.
    pub fn needs_body(&self) -> bool {
        match self {
            Self::Status { .. }
            | Self::Rate { .. }
            | Self::RedirectLoop
            | Self::HeadersNever
            | Self::LateHeaders(_) => false,
            Self::Stall(_)
            | Self::Gap(_)
            | Self::Trickle(_)
            | Self::Cut(_)
            | Self::Reset(_)
            | Self::Corrupt(_)
            | Self::Longer { .. }
            | Self::Shorter { .. }
            | Self::ContentLength(_)
            | Self::NotJson
            | Self::BigManifest(_) => true,
        }
    }
}

impl Point {
    /// The number of bytes before this position in a body of `length` bytes.
    pub fn in_body(self, length: u64) -> u64 {
        match self {
            Self::Byte(at) => at.min(length),
            Self::Half => length / 2,
            Self::Last => length.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_matches_what_it_names() {
        let blob = Endpoint::Blob("sha256:aa".to_owned());
        let hit = |target: Target, roles: &[Role]| target.matches(&blob, roles);
        assert!(hit(Target::Any, &[]));
        assert!(hit(Target::Blob, &[Role::Config]));
        assert!(hit(Target::BlobDigest("sha256:aa".to_owned()), &[]));
        assert!(!hit(Target::BlobDigest("sha256:bb".to_owned()), &[]));
        assert!(hit(Target::Layer(1), &[Role::Layer(0), Role::Layer(1)]));
        assert!(!hit(Target::Layer(1), &[Role::Config]));
        assert!(hit(Target::Config, &[Role::Config]));
        assert!(!hit(Target::Ping, &[]));
        assert!(!hit(Target::Manifest, &[]));
    }

    #[test]
    fn points_are_within_the_body() {
        assert_eq!(Point::Byte(7).in_body(10), 7);
        assert_eq!(Point::Byte(70).in_body(10), 10);
        assert_eq!(Point::Half.in_body(10), 5);
        assert_eq!(Point::Last.in_body(10), 9);
        assert_eq!(Point::Last.in_body(0), 0);
    }
}
