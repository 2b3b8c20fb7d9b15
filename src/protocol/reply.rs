//! The replies of the proxy, and the form that the reply to each method must have.

use std::fmt;

use oci_spec::image::Digest;
use semver::Version;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Held, ImageId, LayerInfo, Method, PipeId, Refusal};
use crate::words::printable;

/// One packet from the socket, with its descriptors.
#[derive(Debug)]
pub(crate) struct Packet<F> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<F>,
    /// The packet was longer than our buffer (`MSG_TRUNC`).
    pub(crate) truncated: bool,
    /// Descriptors were lost on the way (`MSG_CTRUNC`).
    pub(crate) fds_lost: bool,
}

/// The read end of a pipe whose other end the proxy closes only in `FinishPipe`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pipe<F> {
    pub(crate) data: F,
    pub(crate) held: Held,
}

/// The contents of a successful reply. The holder owns the descriptors, and has to release what is held.
#[derive(Debug, PartialEq)]
pub(crate) enum Grant<F> {
    Done,
    Version(Version),
    Image(Option<ImageId>),
    /// A manifest. The digest is that of the original manifest, before conversion.
    Manifest {
        digest: Digest,
        pipe: Pipe<F>,
    },
    /// A config or layer info, which the proxy has in its memory.
    Document {
        pipe: Pipe<F>,
    },
    Blob {
        size: Option<u64>,
        pipe: Pipe<F>,
    },
    RawBlob {
        size: Option<u64>,
        data: F,
        error: F,
    },
    Layers(Vec<LayerInfo>),
    Socket(F),
}

impl<F> Grant<F> {
    /// The descriptors that have to be read ends of pipes.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = &F> {
        let pipes = match self {
            Self::Manifest { pipe, .. } | Self::Document { pipe } | Self::Blob { pipe, .. } => {
                [Some(&pipe.data), None]
            }
            Self::RawBlob { data, error, .. } => [Some(data), Some(error)],
            _ => [None, None],
        };
        pipes.into_iter().flatten()
    }
}

/// A violation: the proxy sent something that the protocol does not allow here. Later packets can't be trusted, so the
/// connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// A packet came while no call was waiting for a reply.
    #[error("a reply that nobody asked for")]
    Unsolicited,
    /// The packet was longer than 32 KiB.
    #[error("the reply to {method} was cut: it is longer than a packet may be")]
    Truncated {
        /// The method of the call that was answered.
        method: &'static str,
    },
    /// File descriptors were lost, because this process has none left or
    /// because there were too many.
    #[error(
        "file descriptors in the reply to {method} were lost (is the limit of open files reached?)"
    )]
    DescriptorsLost {
        /// The method of the call that was answered.
        method: &'static str,
    },
    /// The packet is not the JSON of a reply.
    #[error("the reply to {method} is not a reply: {reason}")]
    Malformed {
        /// The method of the call that was answered.
        method: &'static str,
        /// The error of the parser.
        reason: String,
    },
    /// The reply has the wrong number of file descriptors.
    #[error("the reply to {method} came with {found} file descriptors instead of {expected}")]
    Descriptors {
        /// The method of the call that was answered.
        method: &'static str,
        /// The number that the protocol requires.
        expected: usize,
        /// The number in the reply.
        found: usize,
    },
    /// The reply has a pipe id where there must be none, or none where there must be one.
    #[error("the reply to {method} came {}", pipe_id_text(*found))]
    PipeId {
        /// The method of the call that was answered.
        method: &'static str,
        /// The pipe id in the reply. Zero means none.
        found: u32,
    },
    /// The value is not of the kind that this call returns.
    #[error("the reply to {method} has an unusable value: {reason}")]
    Value {
        /// The method of the call that was answered.
        method: &'static str,
        /// The problem with the value.
        reason: String,
    },
    /// `FinishPipe` was answered, but the pipe did not end.
    #[error("the proxy says that a pipe is finished, and keeps it open")]
    Unfinished,
    /// A descriptor is not the read end of a pipe.
    #[error("the proxy handed out a descriptor that is not a readable pipe")]
    NotAPipe,
}

/// Returns which wrong pipe id a reply has: "without a pipe id". Zero means none.
fn pipe_id_text(found: u32) -> String {
    match found {
        0 => "without a pipe id".into(),
        found => format!("with pipe id {found}, which does not belong there"),
    }
}

/// The JSON of a reply. `error_code` is missing before protocol 0.2.8.
#[derive(Deserialize)]
struct Reply {
    success: bool,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    pipeid: u32,
    #[serde(default)]
    error_code: String,
    #[serde(default)]
    error: String,
}

/// Interprets a packet as the reply to `method`. If the packet is a violation, its descriptors are dropped, and
/// so closed.
pub(super) fn interpret<F>(
    method: Method,
    packet: Packet<F>,
) -> Result<Result<Grant<F>, Refusal>, Violation> {
    let name = method.name();
    if packet.truncated {
        return Err(Violation::Truncated { method: name });
    }
    if packet.fds_lost {
        return Err(Violation::DescriptorsLost { method: name });
    }
    let reply: Reply = serde_json::from_slice(&packet.bytes).map_err(|e| Violation::Malformed {
        method: name,
        reason: printable(&e.to_string()),
    })?;
    if !reply.success {
        let [] = exactly(method, packet.fds)?;
        return Ok(Err(Refusal::from_wire(&reply.error_code, &reply.error)));
    }
    grant(method, reply, packet.fds).map(Ok)
}

fn grant<F>(method: Method, reply: Reply, fds: Vec<F>) -> Result<Grant<F>, Violation> {
    let pipeid = reply.pipeid;
    let pipe = |fds, held: fn(PipeId) -> Held| {
        let [data] = exactly(method, fds)?;
        let id = PipeId::new(pipeid).ok_or(Violation::PipeId {
            method: method.name(),
            found: 0,
        })?;
        let held = held(id);
        Ok(Pipe { data, held })
    };
    let no_pipe = || match pipeid {
        0 => Ok(()),
        found => Err(Violation::PipeId {
            method: method.name(),
            found,
        }),
    };
    Ok(match method {
        Method::Initialize => {
            no_pipe()?;
            let [] = exactly(method, fds)?;
            Grant::Version(value(method, reply.value)?)
        }
        Method::OpenImage => {
            no_pipe()?;
            let [] = exactly(method, fds)?;
            let image = ImageId::new(value(method, reply.value)?);
            Grant::Image(Some(image.ok_or_else(|| bad_value(method, "image 0"))?))
        }
        Method::OpenImageOptional => {
            no_pipe()?;
            let [] = exactly(method, fds)?;
            Grant::Image(ImageId::new(value(method, reply.value)?))
        }
        Method::GetManifest => Grant::Manifest {
            digest: value(method, reply.value)?,
            pipe: pipe(fds, Held::memory_pipe)?,
        },
        Method::GetConfig | Method::GetFullConfig | Method::GetLayerInfoPiped => Grant::Document {
            pipe: pipe(fds, Held::memory_pipe)?,
        },
        Method::GetBlob => Grant::Blob {
            size: size(method, reply.value)?,
            pipe: pipe(fds, Held::blob_pipe)?,
        },
        Method::GetRawBlob => {
            no_pipe()?;
            let [data, error] = exactly(method, fds)?;
            Grant::RawBlob {
                size: size(method, reply.value)?,
                data,
                error,
            }
        }
        Method::GetLayerInfo => {
            no_pipe()?;
            let [] = exactly(method, fds)?;
            Grant::Layers(value(method, reply.value)?)
        }
        Method::OpenVarlinkSocket => {
            no_pipe()?;
            let [socket] = exactly(method, fds)?;
            Grant::Socket(socket)
        }
        Method::CloseImage | Method::FinishPipe | Method::Shutdown => {
            no_pipe()?;
            let [] = exactly(method, fds)?;
            Grant::Done
        }
    })
}

fn exactly<F, const N: usize>(method: Method, fds: Vec<F>) -> Result<[F; N], Violation> {
    <[F; N]>::try_from(fds).map_err(|fds| Violation::Descriptors {
        method: method.name(),
        expected: N,
        found: fds.len(),
    })
}

fn bad_value(method: Method, reason: impl fmt::Display) -> Violation {
    Violation::Value {
        method: method.name(),
        reason: printable(&reason.to_string()),
    }
}

fn value<T: DeserializeOwned>(method: Method, value: Value) -> Result<T, Violation> {
    serde_json::from_value(value).map_err(|e| bad_value(method, e))
}

/// Parses the size of a blob, in bytes. `None` for −1, which means that the size is unknown.
fn size(method: Method, wire: Value) -> Result<Option<u64>, Violation> {
    let number: i64 = value(method, wire)?;
    match u64::try_from(number) {
        Ok(size) => Ok(Some(size)),
        Err(_) if number == -1 => Ok(None),
        Err(_) => Err(bad_value(method, format_args!("size {number}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::RefusalCode;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_is_shown_by_its_words() {
        let refusal = |message: &str| Refusal {
            code: None,
            message: message.into(),
        };
        assert_eq!(refusal("no").to_string(), "no");
        assert_eq!(refusal("").to_string(), "refused without a reason");
    }

    fn packet(json: &str, fds: &[u32]) -> Packet<u32> {
        Packet {
            bytes: json.into(),
            fds: fds.to_vec(),
            truncated: false,
            fds_lost: false,
        }
    }

    fn pipe_id(id: u32) -> PipeId {
        PipeId::new(id).expect("not zero")
    }

    #[test]
    fn each_method_has_its_own_form_of_reply() {
        let table = [
            (
                Method::Initialize,
                r#"{"success":true,"value":"0.2.8","pipeid":0}"#,
                vec![],
                Grant::Version(Version::new(0, 2, 8)),
            ),
            (
                Method::OpenImage,
                r#"{"success":true,"value":1}"#,
                vec![],
                Grant::Image(ImageId::new(1)),
            ),
            (
                Method::OpenImageOptional,
                r#"{"success":true,"value":0}"#,
                vec![],
                Grant::Image(None),
            ),
            (
                Method::GetManifest,
                r#"{"success":true,"value":"other:x","pipeid":5}"#,
                vec![30],
                Grant::Manifest {
                    digest: "other:x".parse().expect("a digest"),
                    pipe: Pipe {
                        data: 30,
                        held: Held::memory_pipe(pipe_id(5)),
                    },
                },
            ),
            (
                Method::GetFullConfig,
                r#"{"success":true,"value":null,"pipeid":5}"#,
                vec![30],
                Grant::Document {
                    pipe: Pipe {
                        data: 30,
                        held: Held::memory_pipe(pipe_id(5)),
                    },
                },
            ),
            (
                Method::GetBlob,
                r#"{"success":true,"value":-1,"pipeid":5}"#,
                vec![30],
                Grant::Blob {
                    size: None,
                    pipe: Pipe {
                        data: 30,
                        held: Held::blob_pipe(pipe_id(5)),
                    },
                },
            ),
            (
                Method::GetRawBlob,
                r#"{"success":true,"value":77}"#,
                vec![30, 31],
                Grant::RawBlob {
                    size: Some(77),
                    data: 30,
                    error: 31,
                },
            ),
            (
                Method::OpenVarlinkSocket,
                r#"{"success":true}"#,
                vec![30],
                Grant::Socket(30),
            ),
            (
                Method::FinishPipe,
                r#"{"success":true,"value":null,"pipeid":0,"error":""}"#,
                vec![],
                Grant::Done,
            ),
        ];
        for (method, json, fds, expected) in table {
            assert_eq!(
                interpret(method, packet(json, &fds)),
                Ok(Ok(expected)),
                "{method}"
            );
        }
    }

    #[test]
    fn a_reply_of_another_form_is_a_violation() {
        let table = [
            (Method::OpenImage, r#"{"success":true,"value":0}"#, vec![]),
            (Method::OpenImage, r#"{"success":true,"value":"1"}"#, vec![]),
            (Method::OpenImage, r#"{"success":true,"value":1}"#, vec![30]),
            (
                Method::OpenImage,
                r#"{"success":true,"value":1,"pipeid":3}"#,
                vec![],
            ),
            (
                Method::OpenImage,
                r#"{"success":false,"error":"no"}"#,
                vec![30],
            ),
            (
                Method::GetManifest,
                r#"{"success":true,"value":"d","pipeid":0}"#,
                vec![30],
            ),
            (
                Method::GetManifest,
                r#"{"success":true,"value":"d","pipeid":3}"#,
                vec![],
            ),
            (
                Method::GetBlob,
                r#"{"success":true,"value":-2,"pipeid":3}"#,
                vec![30],
            ),
            (
                Method::GetRawBlob,
                r#"{"success":true,"value":1}"#,
                vec![30],
            ),
            (
                Method::GetRawBlob,
                r#"{"success":true,"value":1}"#,
                vec![30, 31, 32],
            ),
            (
                Method::GetLayerInfo,
                r#"{"success":true,"value":[{"digest":"nonsense"}]}"#,
                vec![],
            ),
            (Method::FinishPipe, "", vec![]),
            (Method::FinishPipe, "[]", vec![]),
            (Method::FinishPipe, r#"{"value":1}"#, vec![]),
        ];
        for (method, json, fds) in table {
            assert!(
                interpret(method, packet(json, &fds)).is_err(),
                "{method} {json} {fds:?}"
            );
        }
    }

    #[test]
    fn truncation_flags_are_checked_first() {
        let good = r#"{"success":true,"value":1}"#;
        let cut = Packet {
            truncated: true,
            ..packet(good, &[])
        };
        assert_eq!(
            interpret(Method::OpenImage, cut),
            Err(Violation::Truncated {
                method: "OpenImage"
            })
        );
        let lost = Packet {
            fds_lost: true,
            ..packet(good, &[])
        };
        assert_eq!(
            interpret(Method::OpenImage, lost),
            Err(Violation::DescriptorsLost {
                method: "OpenImage"
            })
        );
    }

    #[test]
    fn refusals_carry_code_and_message() {
        let refused = |json| {
            interpret(Method::GetBlob, packet(json, &[]))
                .expect("no violation")
                .expect_err("refused")
        };
        assert_eq!(
            refused(r#"{"success":false,"error":"gone"}"#),
            Refusal {
                code: None,
                message: "gone".into()
            }
        );
        let coded = refused(
            r#"{"success":false,"error":"x","error_code":"retryable","pipeid":0,"value":null}"#,
        );
        assert_eq!(coded.code, Some(RefusalCode::Retryable));
        let new = refused(r#"{"success":false,"error":"x","error_code":"quota"}"#);
        assert_eq!(new.code, Some(RefusalCode::Unknown("quota".into())));
    }

    proptest! {
        #[test]
        fn any_bytes_and_any_number_of_descriptors_never_panic(
            method in proptest::sample::select(Method::ALL),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            fds in proptest::collection::vec(any::<u32>(), 0..8),
            truncated: bool,
            fds_lost: bool,
        ) {
            let _ = interpret(method, Packet { bytes, fds, truncated, fds_lost });
        }

        #[test]
        fn any_wellformed_reply_never_panics(
            method in proptest::sample::select(Method::ALL),
            success: bool,
            value in prop_oneof![
                Just(Value::Null),
                any::<i64>().prop_map(Value::from),
                any::<f64>().prop_map(Value::from),
                ".*".prop_map(Value::from),
            ],
            pipeid: u32,
            error in ".*",
            fds in proptest::collection::vec(any::<u32>(), 0..4),
        ) {
            let json = serde_json::json!({
                "success": success, "value": value, "pipeid": pipeid, "error": error,
            });
            let _ = interpret(method, packet(&json.to_string(), &fds));
        }
    }
}
