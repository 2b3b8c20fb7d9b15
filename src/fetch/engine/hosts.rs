//! The host of an image, its rules, and the kind of proxy that opens it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use super::super::scheduler::{HostId, HostRules, KindId, Login};
use super::super::unit::Kind;
use super::Engine;
use crate::config::Platform;
use crate::reference::Place;
use crate::words::printable;

/// The number of workers of a proxy for each processor, if the number of proxies is not fixed. More workers
/// were slower, because the bytes of so many pipes do not stay in the processors' caches (docs/decisions.md).
/// If transfers or handlers are slow for other reasons, the scheduler starts further proxies.
const WORKERS_PER_PROCESSOR: usize = 2;

/// The beginning of the key of a registry.
const REGISTRY: &str = "docker://";

impl Engine {
    /// The host of this image, and the kind of proxy that opens it. A new host or kind is added.
    pub(super) fn host_and_kind(
        &mut self,
        reference: &str,
        platform: Option<&Platform>,
    ) -> (HostId, KindId) {
        let place = Place::of(reference);
        let key = match place {
            Place::Registry { host } => format!("{REGISTRY}{host}"),
            // An archive is unpacked by one proxy, so each archive is a host of its own.
            Place::Archive => reference.to_owned(),
            Place::Storage => "containers-storage:".to_owned(),
            Place::Local => String::new(),
        };
        let is_same = |kind: &Arc<Kind>| {
            let is_registry = |place| matches!(place, Place::Registry { .. });
            is_registry(Place::of(&kind.example)) == is_registry(place)
                && kind.platform.as_ref() == platform
        };
        let kind = self.kinds.iter().position(is_same).unwrap_or_else(|| {
            self.kinds.push(Arc::new(Kind {
                example: reference.into(),
                platform: platform.cloned(),
            }));
            self.kinds.len() - 1
        });
        if let Some(host) = self.hosts.get(&key) {
            return (*host, KindId(kind));
        }
        let rules = self.rules(reference);
        self.claims.want_proxies(rules.least, rules.most);
        let host = self.scheduler.add_host(rules);
        self.hosts.insert(key, host);
        if matches!(place, Place::Registry { .. }) {
            let (starter, reference) = (Arc::clone(&self.starter), reference.to_owned());
            self.logins.spawn(async move {
                let login = if starter.may_have_login(&reference).await {
                    Login::Unconfirmed
                } else {
                    Login::No
                };
                (host, login)
            });
        }
        (host, KindId(kind))
    }

    /// The name of a registry, for events.
    pub(super) fn registry(&self, host: HostId) -> String {
        let mut hosts = self.hosts.iter();
        let found = hosts.find(|(_, id)| **id == host).map(|(key, _)| &**key);
        let key = found.unwrap_or_default();
        printable(key.strip_prefix(REGISTRY).unwrap_or(key))
    }

    fn rules(&self, reference: &str) -> HostRules {
        let place = Place::of(reference);
        let (least, most) = self.options.bounds(&[place]);
        let workers = self.options.workers.get();
        let per_unit = if least == most {
            // A fixed number of proxies shares all workers.
            workers.div_ceil(least).max(2)
        } else {
            usual_workers().max(workers.div_ceil(most))
        };
        HostRules {
            least,
            most,
            per_unit,
            is_registry: matches!(place, Place::Registry { .. }),
            counts_openings: self.options.counts_openings(place),
            has_answered: self.starter.has_answered(reference),
        }
    }
}

/// The number of workers of a proxy, if the number of proxies is not fixed and the options do not ask for more.
fn usual_workers() -> usize {
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    WORKERS_PER_PROCESSOR * processors.max(2)
}
