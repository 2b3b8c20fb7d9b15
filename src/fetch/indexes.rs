//! The indexes that requests of all platforms ask for, each by a program of its own.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::index::Listed;
use super::request::ImageRequest;
use super::{Fetcher, panicked};
use crate::error::{Error, Result};
use crate::protocol::RefusalKind;
use crate::reference::Place;

/// How many are asked for at once.
const AT_ONCE: usize = 4;

/// After a registry has refused so many, each as often as there are retries, it has trouble, and not they.
const ENOUGH: u32 = 2;

/// Then no other is asked for there for so long.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// A request, and what became of its index: `None` if it is a single image.
pub(super) type Asked = (usize, ImageRequest, Result<Option<Listed>>);

#[derive(Debug)]
pub(super) struct Indexes {
    fetcher: Fetcher,
    waiting: VecDeque<(usize, ImageRequest)>,
    asking: JoinSet<Asked>,
    /// By registry.
    refusals: HashMap<String, Refusal>,
}

/// What a registry has refused.
#[derive(Debug)]
struct Refusal {
    error: Error,
    /// How many indexes, with none that came between them.
    indexes: u32,
    /// None is asked for before; `None` means never.
    until: Option<Instant>,
}

impl Indexes {
    pub(super) fn new(fetcher: Fetcher) -> Self {
        Self {
            fetcher,
            waiting: VecDeque::new(),
            asking: JoinSet::new(),
            refusals: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, number: usize, request: ImageRequest) {
        self.waiting.push_back((number, request));
    }

    /// How many are wanted.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.asking.len()
    }

    /// Asks for the next ones; for one, until it is known that the registry answers. Returns those that need not be asked
    /// for, for their registry has refused others, here or as `refusal` tells.
    pub(super) fn ask(&mut self, mut refusal: impl FnMut(&str) -> Option<Error>) -> Vec<Asked> {
        let mut refused = Vec::new();
        while let Some((number, request)) = self.waiting.pop_front() {
            let known = self.refusal(&request.reference);
            if let Some(error) = known.or_else(|| refusal(&request.reference)) {
                refused.push((number, request, Err(error)));
                continue;
            }
            let is_proved = self.fetcher.starter.is_proved(&request.reference);
            if self.asking.len() >= if is_proved { AT_ONCE } else { 1 } {
                self.waiting.push_front((number, request));
                break;
            }
            let fetcher = self.fetcher.clone();
            self.asking.spawn(async move {
                let listed = fetcher.list(&request.reference).await;
                (number, request, listed)
            });
        }
        refused
    }

    /// The next one that came, or was refused; `None` if none is asked for.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Result<Asked>> {
        let asked = self.asking.join_next().await?;
        match &asked {
            Ok((_, request, Err(error))) => self.refused(&request.reference, error),
            Ok((_, request, Ok(_))) => {
                if let Place::Registry { host } = Place::of(&request.reference) {
                    self.refusals.remove(host);
                }
            }
            Err(_) => {}
        }
        Some(asked.map_err(panicked))
    }

    fn refusal(&self, reference: &str) -> Option<Error> {
        let Place::Registry { host } = Place::of(reference) else {
            return None;
        };
        let refusal = self.refusals.get(host)?;
        let lasts = refusal.until.is_none_or(|until| Instant::now() < until);
        (lasts && refusal.indexes >= ENOUGH).then(|| refusal.error.clone())
    }

    /// A registry that does not take a password would not take it for the others, either, and count the tries. One that is
    /// out would be asked as often for each.
    fn refused(&mut self, reference: &str, error: &Error) {
        let place = Place::of(reference);
        let Place::Registry { host } = place else {
            return;
        };
        let is_login = error.kind() == Some(RefusalKind::Unauthorized)
            && !self.fetcher.starter.is_proved(reference);
        let is_registrys = matches!(
            error.kind(),
            Some(RefusalKind::Throttled | RefusalKind::Unavailable | RefusalKind::Unreachable)
        );
        if !is_login && !is_registrys {
            return;
        }
        let known = self.refusals.get(host).map_or(0, |refusal| refusal.indexes);
        let refusal = Refusal {
            error: error.clone(),
            indexes: if is_login { ENOUGH } else { known + 1 },
            until: (!is_login).then(|| Instant::now() + REFUSED_FOR),
        };
        self.refusals.insert(host.to_owned(), refusal);
    }
}
