//! The SEQPACKET socket: one packet out, one packet in.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, send, sockopt};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::protocol::Packet;
use crate::sys;

#[derive(Debug)]
pub(crate) struct Transport {
    /// The socket, which is a SEQPACKET one, not a datagram one. tokio has no type for those, watches all sockets
    /// alike, and makes an `AsyncFd` only in unsafe code.
    socket: UnixDatagram,
}

/// A program that forks has copies of the socket, which would keep it open.
impl Drop for Transport {
    fn drop(&mut self) {
        // It fails if the other end has gone, which is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Transport {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        if getsockopt(&socket, sockopt::SockType)? != SockType::SeqPacket {
            let reason = "the descriptor is not a SOCK_SEQPACKET socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            socket: UnixDatagram::from_std(net::UnixDatagram::from(socket))?,
        })
    }

    /// Send one packet. Dropped before it is ready, it has sent nothing.
    pub(crate) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let sent = self.socket.async_io(Interest::WRITABLE, || {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            Ok(send(self.socket.as_raw_fd(), packet, flags)?)
        });
        // A packet goes whole or not at all.
        sent.await.map(|_| ())
    }

    /// Receive one packet by way of `buffer` (what is longer is cut, and
    /// flagged); `None` when the other end is closed. Dropped before it is
    /// ready, it has taken nothing.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet<OwnedFd>>> {
        let received = self
            .socket
            .async_io(Interest::READABLE, || sys::receive(&self.socket, buffer))
            .await?;
        if received.bytes == 0 {
            return Ok(None);
        }
        Ok(Some(Packet {
            bytes: buffer[..received.bytes].to_vec(),
            fds: received.fds,
            truncated: received.truncated,
            fds_lost: received.fds_lost,
        }))
    }
}
