//! The calls that are sent to the proxy.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

use oci_spec::image::{Digest, MediaType};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// The largest packet that either side sends, in bytes (skopeo, `proxy.go`: `maxMsgSize`).
pub(crate) const MAX_PACKET: usize = 32 * 1024;

/// The proxy's number for an image that it holds open. The number is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ImageId(NonZeroU64);

impl ImageId {
    /// Makes an id of a number on the wire. `None` for zero, which means "no image" in the protocol.
    pub(crate) fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    /// The number on the wire.
    pub(crate) fn get(self) -> u64 {
        self.0.get()
    }
}

/// The proxy's number for a pipe that it closes only in `FinishPipe`. The number is never zero.
///
/// The number is that of a file descriptor in the proxy, and is reused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PipeId(NonZeroU32);

impl PipeId {
    /// Makes an id of a number on the wire. `None` for zero, which means "no pipe" in the protocol.
    pub(crate) fn new(id: u32) -> Option<Self> {
        NonZeroU32::new(id).map(Self)
    }

    /// The number on the wire.
    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }
}

/// A layer as the proxy can send it: the digest and size by which [`get_blob`](crate::ImageProxy::get_blob)
/// fetches it.
///
/// These differ from the layer in the manifest if the transport stores layers in another form (`containers-storage:`
/// stores them uncompressed).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct LayerInfo {
    /// The digest of the bytes that the proxy sends.
    pub digest: Digest,
    /// The size in bytes. `None` if the transport does not know the size.
    #[serde(deserialize_with = "known_size")]
    pub size: Option<u64>,
    /// The media type of the bytes.
    pub media_type: MediaType,
}

/// Reads a size from the wire, where an unknown size is −1.
fn known_size<'de, D: Deserializer<'de>>(size: D) -> Result<Option<u64>, D::Error> {
    let size = i64::deserialize(size)?;
    Ok(u64::try_from(size).ok())
}

macro_rules! methods {
    ($($name:ident),+ $(,)?) => {
        /// The protocol's methods, by their names on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum Method { $($name),+ }

        impl Method {
            /// All methods of the protocol.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// The name on the wire.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

methods! {
    Initialize, OpenImage, OpenImageOptional, CloseImage, GetManifest, GetConfig,
    GetFullConfig, GetBlob, GetRawBlob, GetLayerInfo, GetLayerInfoPiped,
    FinishPipe, OpenVarlinkSocket, Shutdown,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call: one method with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Initialize,
    OpenImage {
        reference: String,
    },
    OpenImageOptional {
        reference: String,
    },
    CloseImage(ImageId),
    GetManifest(ImageId),
    GetConfig(ImageId),
    GetFullConfig(ImageId),
    GetBlob {
        image: ImageId,
        digest: Digest,
        size: u64,
    },
    GetRawBlob {
        image: ImageId,
        digest: Digest,
    },
    GetLayerInfo(ImageId),
    GetLayerInfoPiped(ImageId),
    FinishPipe(PipeId),
    OpenVarlinkSocket(ImageId),
    Shutdown,
}

impl Call {
    pub(crate) fn method(&self) -> Method {
        match self {
            Self::Initialize => Method::Initialize,
            Self::OpenImage { .. } => Method::OpenImage,
            Self::OpenImageOptional { .. } => Method::OpenImageOptional,
            Self::CloseImage(_) => Method::CloseImage,
            Self::GetManifest(_) => Method::GetManifest,
            Self::GetConfig(_) => Method::GetConfig,
            Self::GetFullConfig(_) => Method::GetFullConfig,
            Self::GetBlob { .. } => Method::GetBlob,
            Self::GetRawBlob { .. } => Method::GetRawBlob,
            Self::GetLayerInfo(_) => Method::GetLayerInfo,
            Self::GetLayerInfoPiped(_) => Method::GetLayerInfoPiped,
            Self::FinishPipe(_) => Method::FinishPipe,
            Self::OpenVarlinkSocket(_) => Method::OpenVarlinkSocket,
            Self::Shutdown => Method::Shutdown,
        }
    }

    fn arguments(&self) -> Value {
        match self {
            Self::Initialize | Self::Shutdown => json!([]),
            Self::OpenImage { reference } | Self::OpenImageOptional { reference } => {
                json!([reference])
            }
            Self::CloseImage(image)
            | Self::GetManifest(image)
            | Self::GetConfig(image)
            | Self::GetFullConfig(image)
            | Self::GetLayerInfo(image)
            | Self::GetLayerInfoPiped(image)
            | Self::OpenVarlinkSocket(image) => json!([image.get()]),
            Self::GetBlob {
                image,
                digest,
                size,
            } => {
                json!([image.get(), digest.to_string(), size])
            }
            Self::GetRawBlob { image, digest } => json!([image.get(), digest.to_string()]),
            Self::FinishPipe(pipe) => json!([pipe.get()]),
        }
    }

    /// Returns the packet of the call. The packet may be larger than [`MAX_PACKET`], so that the proxy could not read
    /// it. [`Session::ask`](super::Session::ask) rejects such a call.
    pub(crate) fn encode(&self) -> Vec<u8> {
        json!({ "method": self.method().name(), "args": self.arguments() })
            .to_string()
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        format!("sha256:{}", "a".repeat(64))
            .parse()
            .expect("a digest")
    }

    #[test]
    fn the_packet_limit_is_that_of_skopeo() {
        assert_eq!(MAX_PACKET, 32_768);
    }

    #[test]
    fn a_method_is_shown_by_its_name_on_the_wire() {
        assert_eq!(Method::GetRawBlob.to_string(), "GetRawBlob");
    }

    #[test]
    fn calls_are_written_as_skopeo_reads_them() {
        let image = ImageId::new(7).expect("not zero");
        let pipe = PipeId::new(9).expect("not zero");
        let long = digest().to_string();
        let table = [
            (
                Call::Initialize,
                json!({"method": "Initialize", "args": []}),
            ),
            (
                Call::OpenImage {
                    reference: "docker://a/b:c".into(),
                },
                json!({"method": "OpenImage", "args": ["docker://a/b:c"]}),
            ),
            (
                Call::GetManifest(image),
                json!({"method": "GetManifest", "args": [7]}),
            ),
            (
                Call::GetBlob {
                    image,
                    digest: digest(),
                    size: 12,
                },
                json!({"method": "GetBlob", "args": [7, long, 12]}),
            ),
            (
                Call::GetRawBlob {
                    image,
                    digest: digest(),
                },
                json!({"method": "GetRawBlob", "args": [7, long]}),
            ),
            (
                Call::FinishPipe(pipe),
                json!({"method": "FinishPipe", "args": [9]}),
            ),
            (Call::Shutdown, json!({"method": "Shutdown", "args": []})),
        ];
        for (call, expected) in table {
            let sent: Value = serde_json::from_slice(&call.encode()).expect("JSON");
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn zero_is_neither_an_image_nor_a_pipe() {
        assert_eq!(ImageId::new(0), None);
        assert_eq!(PipeId::new(0), None);
    }
}
