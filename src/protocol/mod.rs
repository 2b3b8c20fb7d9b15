//! The image-proxy protocol without any I/O: the calls, the replies, and the state machines of a connection. This
//! module does not use tokio or nix, so tests can step the state machines.

mod held;
mod message;
mod phase;
mod refusal;
mod reply;
mod session;
mod version;
mod wording;

pub use message::LayerInfo;
pub use refusal::{Refusal, RefusalCode, RefusalKind};
pub use version::FIRST_SUPPORTED;

pub(crate) use held::Held;
pub(crate) use message::{Call, ImageId, MAX_PACKET, Method, PipeId};
pub(crate) use phase::Phase;
pub(crate) use reply::{Grant, Packet, Pipe, Violation};
pub(crate) use session::{Rejected, Session, Turn, Waiter};
pub(crate) use version::{CHECKS_POLICY_SINCE, is_compatible, supports};
pub(crate) use wording::{describe_call, describe_feature, first_skopeo, skopeo_of, skopeos_since};
