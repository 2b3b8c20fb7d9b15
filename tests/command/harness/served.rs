//! A test registry with images, on a runtime of its own, because tests block while they wait for processes.

use std::cell::Cell;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use test_registry::fault::Fault;
use test_registry::image::{ImageBuilder, Written};
use test_registry::server::{Options, Registry};

#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) registry: Registry,
    pub(crate) folder: TempDir,
    seen: Cell<usize>,
    _runtime: Runtime,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let registry = Registry::start(folder.path(), options).unwrap();
        drop(entered);
        Self {
            registry,
            folder,
            seen: Cell::new(0),
            _runtime: runtime,
        }
    }

    /// A registry with a single image.
    pub(crate) fn image(tag: &str, image: &ImageBuilder) -> (Self, Written) {
        let served = Self::start();
        let written = served.add(tag, image);
        (served, written)
    }

    pub(crate) fn add(&self, tag: &str, image: &ImageBuilder) -> Written {
        image.write(self.folder.path(), tag).unwrap()
    }

    /// The reference of an image at this registry, for skopeo.
    pub(crate) fn reference(&self, tag: &str) -> String {
        self.registry.reference(tag)
    }

    /// Sets the faults from now on, as `registry --fault` reads them.
    #[track_caller]
    pub(crate) fn faults(&self, faults: &[&str]) {
        let faults = faults.iter().map(|text| text.parse::<Fault>());
        let faults = faults.collect::<Result<_, _>>().unwrap();
        self.registry.set_faults(faults);
    }

    /// The digests of the blobs that were requested since the last call, in order.
    pub(crate) fn take_blob_gets(&self) -> Vec<String> {
        let requests = self.registry.requests();
        let new = &requests[self.seen.replace(requests.len())..];
        new.iter()
            .filter(|request| request.method == "GET")
            .filter_map(|request| request.path.split_once("/blobs/"))
            .map(|(_, digest)| digest.to_owned())
            .collect()
    }
}
