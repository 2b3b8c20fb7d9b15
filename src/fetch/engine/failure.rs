//! Classifies a failure for the scheduler.

use super::super::retry::{is_proxy_failure, is_throttled, is_transient};
use super::super::scheduler::{FailureKind, RefusalReason};
use super::super::unit::Failure;
use crate::error::{BlobError, Error};
use crate::protocol::RefusalKind;
use crate::reference::Place;

/// Classifies a failure. `reference` is that of the image through which the unit asked. `cancels` is whether the
/// proxy can be told to give up a blob.
pub(super) fn classify(failure: Failure, reference: &str, cancels: bool) -> FailureKind<Error> {
    let place = Place::of(reference);
    match failure {
        Failure::Handling(error) => FailureKind::Final(error),
        Failure::Unanswered(error) => FailureKind::Lost {
            error,
            unusable: true,
        },
        Failure::Refused { error, began } => {
            let why = if is_throttled(&error) {
                RefusalReason::Throttled
            } else {
                match error.kind() {
                    // This case comes first, because skopeo 1.22 also calls this refusal retryable.
                    Some(RefusalKind::NotFound) => RefusalReason::Missing,
                    _ if is_transient(&error, place) => RefusalReason::Transient,
                    Some(RefusalKind::Unauthorized) => RefusalReason::Login,
                    _ => RefusalReason::Final,
                }
            };
            FailureKind::Refused { error, began, why }
        }
        Failure::Fetching(error @ Error::ImageChanged { .. }) => FailureKind::Changed(error),
        Failure::Fetching(error) if !is_transient(&error, place) => FailureKind::Final(error),
        Failure::Fetching(error) if is_proxy_failure(&error) => {
            let is_stalled = matches!(
                error,
                Error::Blob {
                    source: BlobError::Stalled { .. } | BlobError::TooSlow { .. },
                    ..
                }
            );
            // The proxy can't be told to give up the blob, so it stays busy with it.
            let unusable = is_stalled && !cancels;
            FailureKind::Lost { error, unusable }
        }
        Failure::Fetching(error) => FailureKind::Broken(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::protocol::Refusal;

    #[test]
    fn refusals_are_classified_by_their_reason_and_their_source() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let digest = digest.parse().expect("a digest");
        let why = |code: &str, message: &str, reference: &str| {
            let refusal = Refusal::from_wire(code, message);
            let error = Error::blob(&digest)(BlobError::Refused(refusal));
            let began = Instant::now();
            match classify(Failure::Refused { error, began }, reference, true) {
                FailureKind::Refused { why, .. } => why,
                other => panic!("{other:?}"),
            }
        };
        // skopeo 1.22 calls a 404 retryable.
        let missing = "invalid status code from registry 404 (Not Found)";
        assert_eq!(
            why("retryable", missing, "docker://a/b"),
            RefusalReason::Missing
        );
        let failed = "invalid status code from registry 503 (Service Unavailable)";
        assert_eq!(
            why("other", failed, "docker://a/b"),
            RefusalReason::Transient
        );
        assert_eq!(why("other", failed, "oci:a"), RefusalReason::Final);
        let login = "unauthorized: authentication required";
        assert_eq!(why("other", login, "docker://a/b"), RefusalReason::Login);
        let denied = format!("denied: not yours, {login}");
        assert_eq!(why("other", &denied, "docker://a/b"), RefusalReason::Final);
    }
}
