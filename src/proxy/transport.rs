//! The `SOCK_SEQPACKET` socket of a connection, which sends and receives whole packets.

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
    /// The socket, which is a `SOCK_SEQPACKET` socket, not a datagram socket. tokio has no type for such sockets, but
    /// watches all sockets in the same way. Its `AsyncFd` would need unsafe code.
    socket: UnixDatagram,
}

/// Shuts the socket down. Closing it is not enough, because a program that forks has copies of the socket.
impl Drop for Transport {
    fn drop(&mut self) {
        // The shutdown fails only if the other end is gone, which is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Transport {
    /// Makes a transport of this socket. Returns an error if the descriptor is not a `SOCK_SEQPACKET` socket. This
    /// function must be called within a tokio runtime.
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

    /// Sends one packet.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, the packet is not sent.
    pub(crate) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let sent = self.socket.async_io(Interest::WRITABLE, || {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            Ok(send(self.socket.as_raw_fd(), packet, flags)?)
        });
        // A packet is sent whole or not at all, so the number of sent bytes does not matter.
        sent.await.map(|_| ())
    }

    /// Receives one packet through `buffer`. A packet that is longer than the buffer is cut, and flagged as truncated.
    /// `None` if the other end is closed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no packet is lost.
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
