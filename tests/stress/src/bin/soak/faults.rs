//! The faults that are drawn, and how a pull must end under each of them.

use longshore::{BlobError, Error};

/// How a pull must end if it is not cancelled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The whole image must be there.
    Whole,
    /// The pull must fail with an error of this kind.
    Failed(fn(&Error) -> bool),
}

/// A fault, as the test registry reads it. `#N` stands for some layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) fault: &'static str,
    pub(crate) end: End,
    /// Whether each try waits for a timeout, so that there must be few tries.
    pub(crate) slow: bool,
}

/// The faults of the registry. Each is drawn with the same probability.
pub(crate) const CASES: &[Case] = &[
    // No fault, or a harmless one.
    passes(""),
    passes("any:ttfb=30ms"),
    passes("blob:ttfb=200ms*5"),
    passes("any:rate=30,retry-after=1"),
    // Faults of layers.
    passes("blob#N:status=500*2"),
    passes("blob#N:status=502*2"),
    passes("blob#N:status=503*1"),
    passes("blob#N:status=429*1"),
    passes("blob#N:status=429,retry-after=1*1"),
    passes("blob#N:ttfb=60s*1"),
    passes("blob#N:headers-never*1"),
    passes("blob#N:stall=0*1"),
    passes("blob#N:stall=half*1"),
    passes("blob#N:stall=last*1"),
    passes("blob#N:cut=0*2"),
    passes("blob#N:cut=half*3"),
    passes("blob#N:cut=last*1"),
    passes("blob#N:reset=0*2"),
    passes("blob#N:reset=half*3"),
    passes("blob#N:reset=last*1"),
    passes("blob#N:corrupt*2"),
    passes("blob#N:corrupt=0*1"),
    passes("blob#N:chunked-shorter=10*1"),
    passes("blob:cut=half*5"),
    passes("blob:corrupt*5"),
    fails("blob#N:status=401", refused_blob),
    fails("blob#N:status=403", refused_blob),
    fails("blob#N:status=404", refused_blob),
    fails("blob#N:status=500", refused_blob),
    fails("blob#N:redirect-loop", refused_blob),
    fails("blob#N:corrupt", wrong_blob),
    fails("blob#N:longer=1", wrong_blob),
    fails("blob#N:shorter=1", wrong_blob),
    fails("blob#N:content-length=7", wrong_blob),
    fails("blob#N:chunked-longer=1M", wrong_blob),
    fails_slowly("blob#N:chunked-shorter=1", broken_blob),
    fails_slowly("blob#N:cut=half", broken_blob),
    fails_slowly("blob#N:reset=half", broken_blob),
    fails_slowly("blob#N:stall=half", broken_blob),
    fails_slowly("blob#N:headers-never", broken_blob),
    // Faults of the config.
    passes("config:status=500*2"),
    passes("config:headers-never*1"),
    passes("config:stall=half*1"),
    passes("config:cut=half*2"),
    passes("config:reset=half*2"),
    passes("config:corrupt*1"),
    fails("config:status=404", refused_blob),
    fails("config:corrupt", wrong_blob),
    fails("config:longer=1", wrong_blob),
    // Faults of the manifest, and of the requests before it.
    passes("manifest:ttfb=300ms"),
    passes("manifest:status=500*2"),
    passes("manifest:status=503*1"),
    passes("manifest:status=429*1"),
    passes("manifest:cut=half*2"),
    passes("manifest:reset=half*1"),
    passes("manifest:stall=half*1"),
    passes("manifest:headers-never*1"),
    passes("manifest:not-json*1"),
    passes("ping:status=500*1"),
    passes("ping:headers-never*1"),
    fails("manifest:status=401", refused_image),
    fails("manifest:status=403", refused_image),
    fails("manifest:status=404", refused_image),
    fails("manifest:status=500", refused_image),
    fails("manifest:not-json", refused_image),
    fails("manifest:big-manifest=5M", refused_image),
    fails("manifest:redirect-loop", refused_image),
    fails("ping:status=500", refused_image),
];

const fn passes(fault: &'static str) -> Case {
    Case {
        fault,
        end: End::Whole,
        slow: false,
    }
}

const fn fails(fault: &'static str, kind: fn(&Error) -> bool) -> Case {
    Case {
        fault,
        end: End::Failed(kind),
        slow: false,
    }
}

const fn fails_slowly(fault: &'static str, kind: fn(&Error) -> bool) -> Case {
    Case {
        fault,
        end: End::Failed(kind),
        slow: true,
    }
}

fn blob_error(error: &Error) -> Option<&BlobError> {
    match error {
        Error::Blob { source, .. } => Some(source),
        _ => None,
    }
}

fn refused_image(error: &Error) -> bool {
    matches!(error, Error::Refused { .. })
}

fn refused_blob(error: &Error) -> bool {
    matches!(blob_error(error), Some(BlobError::Refused(_)))
}

/// A skopeo that verifies blobs itself may be the first to notice.
fn wrong_blob(error: &Error) -> bool {
    matches!(
        blob_error(error),
        Some(
            BlobError::Corrupt { .. }
                | BlobError::TooLong { .. }
                | BlobError::WrongSize { .. }
                | BlobError::Refused(_)
        )
    )
}

/// An old skopeo does not report that a transfer broke off.
fn broken_blob(error: &Error) -> bool {
    matches!(
        blob_error(error),
        Some(BlobError::Short { .. } | BlobError::Stalled { .. } | BlobError::Refused(_))
    )
}
