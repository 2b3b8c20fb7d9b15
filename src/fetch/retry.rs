//! Which failures are retried, how often, and when.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::{BlobError, Error};
use crate::protocol::{Refusal, RefusalCode, RefusalKind};
use crate::reference::Place;
use crate::time::deadline_after;

/// The rules for retries: which failures are retried, how often, and after which wait.
///
/// A retry starts from the first byte, with a new reader. These failures are retried:
///
/// - a transfer that broke off or stalled;
/// - bytes that do not match the descriptor, because something else may have answered for the registry, such
///   as a gateway with an error page or a cache with half of a blob;
/// - a proxy that died, unless its program exited by itself before its first answer;
/// - a proxy that does not answer a call within the
///   [`call_timeout`](crate::ConnectionOptions#structfield.call_timeout);
/// - a refusal that is transient.
///
/// skopeo marks few refusals as retryable ([`RefusalCode`]). Refusals that it calls `other`, and all refusals of
/// an old skopeo, are classified by their message. A refusal is final if a retry can't change it: not found, not
/// allowed, a certificate, a setting on this machine. All others are transient. If the image is not at a
/// registry, only refusals that skopeo marks as retryable are retried, and wrong bytes are not, because a folder or an
/// archive returns the same bytes each time.
///
/// After a transient refusal (429, 5xx, a refused connection), no proxy asks the registry until the wait before the
/// next retry has passed. Then one proxy asks again. A registry is given up after more than
/// [`retries`](Self#structfield.retries) refusals in a row, if these refusals are for at least two images or for more
/// than `retries` blobs. Refusals of calls that were under way at the same time count once. All images of a registry
/// that is given up fail. For 60 s, images of this registry that are added to the same pull fail, too.
///
/// If the registry answers an opening with 429, the opening is not retried, because skopeo itself has tried it five
/// times. All images of this registry that are not open yet fail then. For 60 s, images of this registry that are added
/// to the same pull fail, too. If the registry refuses the credentials before any call there has succeeded, its images
/// that are not open yet fail as well, and the pull opens no more images there.
///
/// ```
/// use std::time::Duration;
/// use longshore::{FetchOptions, RetryPolicy};
///
/// let retry = RetryPolicy::default().retries(8).deadline(Duration::from_secs(600));
/// let options = FetchOptions::default().retry(retry);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The maximum number of retries after the first try of a blob, an opening or another request. The default is 4. If
    /// a proxy fails while it fetches a config, the config is asked for once more, even with 0.
    pub retries: u32,
    /// The longest wait before the first retry of a refused call, or of a blob with wrong bytes. The longest wait
    /// doubles with each further retry, up to [`max_backoff`](Self#structfield.max_backoff). The actual wait is random,
    /// between half of the longest wait and all of it. The default is 250 ms. A blob that stalled or was too slow, or
    /// whose proxy failed, is retried at once, with another proxy if there is one.
    pub initial_backoff: Duration,
    /// The longest wait before a retry. The default is 15 s.
    pub max_backoff: Duration,
    /// The time limit of a step with all its retries, counted from the start of the step. The steps are: opening
    /// images, fetching a document, and fetching layers. [`pull_many`](crate::Fetcher::pull_many) has one limit for the
    /// whole pull. `None`, the default, means no limit.
    pub deadline: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 4,
            initial_backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(15),
            deadline: None,
        }
    }
}

impl RetryPolicy {
    /// Sets [`retries`](Self#structfield.retries).
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets [`initial_backoff`](Self#structfield.initial_backoff).
    #[must_use]
    pub fn initial_backoff(mut self, wait: Duration) -> Self {
        self.initial_backoff = wait;
        self
    }

    /// Sets [`max_backoff`](Self#structfield.max_backoff).
    #[must_use]
    pub fn max_backoff(mut self, wait: Duration) -> Self {
        self.max_backoff = wait;
        self
    }

    /// Sets [`deadline`](Self#structfield.deadline).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The wait before the next try of something that has failed `failed` times, the last time with `error`.
    /// `None` means that it is given up. `random`, from 0 to 1, varies the wait, so that many clients do not retry at
    /// the same moment.
    pub(super) fn next_try(
        &self,
        error: &Error,
        source: Place<'_>,
        failed: u32,
        random: f64,
    ) -> Option<Duration> {
        if failed > self.retries || !is_transient(error, source) {
            return None;
        }
        if is_proxy_failure(error) {
            return Some(Duration::ZERO);
        }
        Some(self.jittered(failed, random))
    }

    /// The wait after this many failures: between half of [`backoff`](Self::backoff) and all of it.
    pub(super) fn jittered(&self, failed: u32, random: f64) -> Duration {
        let half = self.backoff(failed) / 2;
        half + half.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The deadline of a call that starts now.
    pub(super) fn deadline_from_now(&self) -> Option<Instant> {
        self.deadline
            .map(|most| deadline_after(Instant::now(), most))
    }

    /// The longest wait after this many failures.
    pub(super) fn backoff(&self, failed: u32) -> Duration {
        let doubled = self
            .initial_backoff
            .saturating_mul(1 << (failed.saturating_sub(1)).min(20));
        doubled.min(self.max_backoff)
    }
}

/// Whether a retry may succeed after this error.
pub(super) fn is_transient(error: &Error, source: Place<'_>) -> bool {
    match error {
        Error::Refused { refusal, .. }
        | Error::Blob {
            source: BlobError::Refused(refusal),
            ..
        } => is_transient_refusal(refusal, source),
        Error::Blob {
            source: BlobError::Connection(error),
            ..
        } => is_transient(error, source),
        Error::Blob {
            source:
                BlobError::TooLong { .. } | BlobError::WrongSize { .. } | BlobError::Corrupt { .. },
            ..
        } => is_registry(source),
        error => error.is_retryable(),
    }
}

/// Whether an opening was refused because the registry limits the rate of requests. skopeo itself has tried the opening
/// five times then.
pub(super) fn is_throttled(error: &Error) -> bool {
    matches!(error, Error::Refused { .. }) && error.kind() == Some(RefusalKind::Throttled)
}

/// Whether the proxy failed, or the transfer stalled or was too slow.
pub(super) fn is_proxy_failure(error: &Error) -> bool {
    match error {
        Error::Blob { source, .. } => {
            let stalled = matches!(
                source,
                BlobError::Stalled { .. } | BlobError::TooSlow { .. }
            );
            stalled || matches!(source, BlobError::Connection(_))
        }
        error => error.is_closed(),
    }
}

fn is_transient_refusal(refusal: &Refusal, source: Place<'_>) -> bool {
    refusal.code == Some(RefusalCode::Retryable) || is_registry(source) && refusal.is_transient()
}

/// A folder or an archive gives the same answer each time. A registry may not.
fn is_registry(source: Place<'_>) -> bool {
    matches!(source, Place::Registry { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::verify::sha256;
    use crate::time::sleep_until_opt;

    const REGISTRY: Place<'_> = Place::Registry { host: "a.b" };

    fn refused(code: Option<RefusalCode>, message: &str) -> Error {
        let refusal = Refusal {
            code,
            message: message.into(),
        };
        Error::Refused {
            method: "GetBlob",
            tries: 1,
            refusal,
        }
    }

    #[test]
    fn refusals_by_their_class_and_their_words() {
        let digest = format!("sha256:{}404{}", "a".repeat(40), "b".repeat(21));
        let table = [
            (
                "fetching blob: invalid status code from registry 500 (Internal Server Error)"
                    .into(),
                true,
            ),
            (
                "Invalid status code returned when fetching blob 429 (Too Many Requests)".into(),
                true,
            ),
            ("unexpected EOF".into(), true),
            (
                "read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer".into(),
                true,
            ),
            ("fetching blob: blob unknown to registry".into(), false),
            (
                "Invalid status code returned when fetching blob 404 (Not Found)".into(),
                false,
            ),
            (
                "unable to retrieve auth token: unauthorized: authentication required".into(),
                false,
            ),
            (
                "A signature was required, but no signature exists".into(),
                false,
            ),
            (
                "Running image docker://a/b:c is rejected by policy.".into(),
                false,
            ),
            ("reading signature from http://a/b: status 503".into(), true),
            (format!("fetching {digest} failed strangely"), true),
            (
                "reading manifest v1 in 127.0.0.1:40177/image: received unexpected HTTP status: \
                 500 Internal Server Error"
                    .into(),
                true,
            ),
            (
                "dial tcp 127.0.0.1:40412: connect: connection refused".into(),
                true,
            ),
            (
                "reading manifest v1 in quay.io/denied/unauthorized: unexpected EOF".into(),
                true,
            ),
            (
                "Error fetching blob: invalid status code from registry 403 (Forbidden)".into(),
                false,
            ),
            ("requesting it: status: 401".into(), false),
        ];
        for (message, expected) in table {
            assert_eq!(
                is_transient(&refused(Some(RefusalCode::Other), &message), REGISTRY),
                expected,
                "{message}"
            );
            assert_eq!(
                is_transient(&refused(None, &message), REGISTRY),
                expected,
                "{message}"
            );
        }
        let retryable = refused(Some(RefusalCode::Retryable), "404 in a funny place");
        assert!(is_transient(&retryable, REGISTRY));
    }

    #[test]
    fn refusals_of_images_outside_a_registry_are_final() {
        let refused = |code| refused(code, "no descriptor found for reference \"a\"");
        for source in [Place::Local, Place::Archive, Place::Storage] {
            assert!(!is_transient(&refused(Some(RefusalCode::Other)), source));
            assert!(!is_transient(&refused(None), source));
            assert!(is_transient(&refused(Some(RefusalCode::Retryable)), source));
            assert!(is_transient(&Error::Disconnected, source));
        }
    }

    #[test]
    fn errors_of_local_settings_are_final() {
        let messages = [
            "invalid policy in \"/a/policy.json\": unexpected end of JSON input",
            "no policy.json file found at any of the following: \"/a/policy.json\", \"/b/policy.json\"",
            "getting username and password: illegal base64 data at input byte 0",
            "getting username and password: error getting credentials - err: exit status 1, out: ``",
            "loading registries configuration: loading registries configuration \"/a\": toml: line 1: \
                 unexpected EOF",
            "registry a.b:5 is blocked in /etc/containers/registries.conf",
            "invalid reference format: repository name must be lowercase",
            "dial tcp: address 99999: invalid port",
            "choosing image instance: no image found in image index for architecture \"mips\"",
            "missing client certificate a.cert for key a.key",
            "tls: failed to find any PEM data in key input",
            "tls: private key does not match public key",
            "missing key a.key for client certificate a.cert. Note that CA certificates should use the \
                 extension .crt",
        ];
        for message in messages {
            assert!(
                !is_transient(&refused(Some(RefusalCode::Other), message), REGISTRY),
                "{message}"
            );
        }
    }

    #[test]
    fn throttling_by_the_words_of_skopeos() {
        for (message, expected) in [
            ("reading manifest v1 in a/b: toomanyrequests: wait", true),
            ("initializing source: too many requests to registry", true),
            (
                "Invalid status code returned when fetching blob 429 (Too Many Requests)",
                true,
            ),
            ("unexpected EOF", false),
        ] {
            assert_eq!(is_throttled(&refused(None, message)), expected, "{message}");
        }
        assert!(!is_throttled(&Error::Disconnected));
    }

    #[test]
    fn wrong_bytes_of_a_registry_are_transient() {
        let digest = format!("sha256:{}", "a".repeat(64))
            .parse()
            .expect("a digest");
        let cut_off = Error::blob(&digest)(BlobError::Short { read: 1, size: 2 });
        for source in [REGISTRY, Place::Local, Place::Archive] {
            assert!(is_transient(&cut_off, source), "the proxy may have ended");
        }
        let wrong = [
            BlobError::TooLong { size: 2 },
            BlobError::WrongSize {
                announced: 1,
                size: 2,
            },
            BlobError::Corrupt {
                computed: sha256(b""),
            },
        ];
        for error in wrong {
            let error = Error::blob(&digest)(error);
            assert!(is_transient(&error, REGISTRY));
            assert!(!is_transient(&error, Place::Local));
            assert!(!is_transient(&error, Place::Archive));
        }
        for error in [
            BlobError::UnknownAlgorithm,
            BlobError::ImpossibleSize(1 << 60),
        ] {
            assert!(!is_transient(&Error::blob(&digest)(error), REGISTRY));
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let policy = RetryPolicy::default().retries(9);
        let error = refused(Some(RefusalCode::Retryable), "");
        let wait = |failed| {
            policy
                .next_try(&error, REGISTRY, failed, 1.0)
                .map(|wait| wait.as_millis())
        };
        let waits: Vec<_> = (1..=10).map(wait).collect();
        let expected = [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000].map(Some);
        assert_eq!(waits[..9], expected);
        assert_eq!(waits[9], None);
        assert_eq!(
            policy.next_try(&error, REGISTRY, 1, 0.0),
            Some(Duration::from_millis(125))
        );
    }

    #[test]
    fn a_blob_of_a_failed_proxy_is_retried_at_once() {
        let policy = RetryPolicy::default();
        let digest = format!("sha256:{}", "a".repeat(64))
            .parse()
            .expect("a digest");
        let lost = BlobError::Connection(Box::new(Error::Disconnected));
        let error = Error::blob(&digest)(lost);
        assert_eq!(
            policy.next_try(&error, REGISTRY, 1, 1.0),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn waits_follow_the_options() {
        let second = Duration::from_secs(1);
        let policy = RetryPolicy::default()
            .initial_backoff(2 * second)
            .max_backoff(3 * second)
            .deadline(9 * second);
        assert_eq!(policy.retries, RetryPolicy::default().retries);
        assert_eq!(
            [1, 2, 3].map(|failed| policy.backoff(failed)),
            [2, 3, 3].map(|n| n * second)
        );
        assert_eq!(policy.deadline, Some(9 * second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_counted_from_the_start_and_passes() {
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        let ends = RetryPolicy::default()
            .deadline(9 * second)
            .deadline_from_now();
        assert_eq!(ends, Some(begun + 9 * second));
        sleep_until_opt(ends).await;
        assert_eq!(begun.elapsed(), 9 * second);
        let never = RetryPolicy::default().deadline_from_now();
        assert_eq!(never, None);
        let waited = tokio::time::timeout(1000 * second, sleep_until_opt(never));
        waited.await.expect_err("it passed");
    }

    #[test]
    fn no_retries_means_none() {
        let error = refused(Some(RefusalCode::Retryable), "");
        assert_eq!(
            RetryPolicy::default()
                .retries(0)
                .next_try(&error, REGISTRY, 1, 1.0),
            None
        );
    }
}
