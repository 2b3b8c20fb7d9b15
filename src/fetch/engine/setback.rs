//! What a failure means to the scheduler.

use super::super::options::Transport;
use super::super::retry::{is_missing, is_the_proxys, is_throttled, is_unauthorized, may_pass};
use super::super::scheduler::{Refused, Setback};
use super::super::unit::Failure;
use crate::error::{BlobError, Error};

/// `reference` is the image that was asked for it, and `cancels` whether the proxy can be told to give a blob up.
pub(super) fn setback(failure: Failure, reference: &str, cancels: bool) -> Setback<Error> {
    let transport = Transport::of(reference);
    match failure {
        Failure::Handling(error) => Setback::Final(error),
        Failure::Unanswered(error) => Setback::Lost { error, sick: true },
        Failure::Refused { error, began } => {
            let why = if is_throttled(&error) {
                Refused::Throttled
            } else if is_missing(&error) {
                Refused::Missing
            } else if may_pass(&error, transport) {
                Refused::MayPass
            } else if is_unauthorized(&error) {
                Refused::Login
            } else {
                Refused::ForGood
            };
            Setback::Refused { error, began, why }
        }
        Failure::Fetching(error @ Error::ImageChanged { .. }) => Setback::Changed(error),
        Failure::Fetching(error) if !may_pass(&error, transport) => Setback::Final(error),
        Failure::Fetching(error) if is_the_proxys(&error) => {
            let is_stalled = matches!(
                error,
                Error::Blob {
                    source: BlobError::Stalled { .. } | BlobError::TooSlow { .. },
                    ..
                }
            );
            // It can't be told to give the blob up.
            let sick = is_stalled && !cancels;
            Setback::Lost { error, sick }
        }
        Failure::Fetching(error) => Setback::Broken(error),
    }
}
