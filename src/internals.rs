//! Private parts that the project's own micro-benchmarks measure. They are public only with the
//! feature `unstable-internals`, are no part of the interface, and may change at any time.

use std::hint::black_box;
use std::io;
use std::ops::{Deref, DerefMut};

use crate::drain::aligned::AlignedBuffer;
use crate::protocol::{Call, ImageId, Packet, Session, Waiter};

/// The kind of buffer into which this library itself reads blobs. It begins at a cache line.
#[derive(Debug)]
pub struct ReadBuffer(AlignedBuffer);

impl ReadBuffer {
    /// Makes a buffer of `length` zero bytes.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self(AlignedBuffer::new(length))
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[derive(Debug)]
struct Caller;

impl Waiter for Caller {
    fn is_gone(&self) -> bool {
        false
    }
}

/// The client's side of a connection without a socket: calls are never sent, and replies are made up.
#[derive(Debug)]
pub struct Conversation {
    session: Session<Caller>,
    blob: Call,
    open: Call,
}

impl Conversation {
    /// Makes a connection whose `Initialize` call has been answered.
    ///
    /// # Errors
    ///
    /// An error would be a bug of this method.
    pub fn new() -> io::Result<Self> {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let blob = Call::GetRawBlob {
            image: ImageId::new(1).ok_or(io::ErrorKind::InvalidInput)?,
            digest: digest.parse().map_err(io::Error::other)?,
        };
        let open = Call::OpenImage {
            reference: "docker://quay.io/fedora/fedora:latest".to_owned(),
        };
        let mut session = Session::new();
        round_trip(&mut session, &Call::Initialize, br#""0.2.8""#, vec![])?;
        Ok(Self {
            session,
            blob,
            open,
        })
    }

    /// Encodes the call for a blob.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.blob.encode()
    }

    /// Encodes the call for a blob, and parses the reply.
    ///
    /// # Errors
    ///
    /// An error would be a bug of this method.
    pub fn get_blob(&mut self) -> io::Result<()> {
        round_trip(&mut self.session, &self.blob, b"102400", vec![5, 6])
    }

    /// Encodes a call that opens an image, and parses the reply.
    ///
    /// # Errors
    ///
    /// An error would be a bug of this method.
    pub fn open_image(&mut self) -> io::Result<()> {
        round_trip(&mut self.session, &self.open, b"7", vec![])
    }
}

fn round_trip(
    session: &mut Session<Caller>,
    call: &Call,
    value: &[u8],
    fds: Vec<u32>,
) -> io::Result<()> {
    let asked = session.ask(call, Caller);
    asked.map_err(|(rejected, _)| io::Error::other(format!("{rejected:?}")))?;
    if let Some(turn) = session.turn() {
        black_box(turn.packet());
        turn.mark_sent();
    }
    let start = br#"{"success":true,"value":"#;
    let end = br#","pipeid":0,"error_code":"","error":""}"#;
    let packet = Packet {
        bytes: [start, value, end].concat(),
        fds,
        truncated: false,
        fds_lost: false,
    };
    let (_, answer) = session
        .receive(packet, |_| true)
        .map_err(io::Error::other)?;
    black_box(answer.map_err(io::Error::other)?);
    Ok(())
}
