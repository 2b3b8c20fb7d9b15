//! The other end of a connection, played by a test.
//!
//! A [`Peer`] speaks the proxy's side over a real `SOCK_SEQPACKET` socket, with its own JSON, its own
//! `sendmsg` and real pipes. It shares no code with the library. The test awaits each call, checks it and
//! answers it, so the order of the test is the script. A test that does not answer simulates a stall. A peer
//! that is dropped with an unexpected call fails its test.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;

use longshore::oci_spec::image::Digest;
use longshore::{ConnectionOptions, ImageProxy, OpenedImage};
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use nix::unistd::pipe2;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixDatagram;
use tokio::net::unix::pipe::Sender;

use super::within_bound;

/// A call as it was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub method: String,
    pub args: Value,
}

impl Call {
    fn parse(packet: &[u8]) -> Self {
        let call: Value = serde_json::from_slice(packet).unwrap();
        Self {
            method: call["method"].as_str().unwrap().to_owned(),
            args: call["args"].clone(),
        }
    }
}

/// The proxy's end of the socket.
#[derive(Debug)]
pub struct Peer {
    /// tokio has no type for SEQPACKET. The system calls are the same.
    socket: UnixDatagram,
    next_pipe: u32,
    /// Whether unexpected calls make the drop fail.
    strict: bool,
}

/// Our end of a pipe that was given away.
#[derive(Debug)]
pub struct PipeEnd {
    pub id: u32,
    pub data: Sender,
}

/// Our ends of the pipes of a `GetRawBlob`.
#[derive(Debug)]
pub struct RawEnds {
    pub data: Sender,
    pub error: Sender,
}

impl Peer {
    /// A peer, and the socket by which to connect to it.
    pub fn pair() -> (Self, OwnedFd) {
        let (theirs, ours) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )
        .unwrap();
        let peer = Self {
            socket: UnixDatagram::from_std(StdDatagram::from(ours)).unwrap(),
            next_pipe: 7,
            strict: true,
        };
        (peer, theirs)
    }

    /// A peer of this protocol version, and the handle that is connected to it.
    pub async fn connected(version: &str) -> (Self, ImageProxy) {
        Self::connected_with(version, ConnectionOptions::default()).await
    }

    pub async fn connected_with(version: &str, options: ConnectionOptions) -> (Self, ImageProxy) {
        let (mut peer, socket) = Self::pair();
        let (proxy, ()) = tokio::join!(ImageProxy::connect(socket, options), async {
            peer.expect("Initialize", json!([])).await;
            peer.reply(json!(version)).await;
        });
        (peer, proxy.unwrap())
    }

    /// The next call. `None` when the other end is closed.
    pub async fn next(&mut self) -> Option<Call> {
        let mut packet = vec![0; 64 * 1024];
        let length = within_bound(self.socket.recv(&mut packet))
            .await
            .unwrap_or(0);
        (length > 0).then(|| Call::parse(&packet[..length]))
    }

    /// The next call, which must have this method.
    #[track_caller]
    pub fn call(&mut self, method: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let call = self.next().await;
            let call = call.unwrap_or_else(|| panic!("{caller}: closed instead of {method}"));
            assert_eq!(call.method, method, "{caller}: {call:?}");
            call.args
        }
    }

    /// Expects exactly this call next.
    #[track_caller]
    pub fn expect(&mut self, method: &str, args: Value) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let call = self.call(method);
        async move { assert_eq!(call.await, args, "{caller}") }
    }

    /// Expects that the other end closes now, without another call.
    #[track_caller]
    pub fn expect_close(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let call = self.next().await;
            assert_eq!(call, None, "{caller}: a call instead of the end");
        }
    }

    /// Sends any packet with any descriptors.
    pub async fn send(&self, bytes: &[u8], fds: &[OwnedFd]) {
        let sent = self.try_send(bytes, fds).await;
        assert_eq!(sent.unwrap(), bytes.len());
    }

    async fn try_send(&self, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<usize> {
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let send = self.socket.async_io(Interest::WRITABLE, || {
            let iov = [IoSlice::new(bytes)];
            Ok(sendmsg::<()>(
                self.socket.as_raw_fd(),
                &iov,
                rights,
                flags,
                None,
            )?)
        });
        within_bound(send).await
    }

    /// Answers with success.
    pub async fn reply(&self, value: Value) {
        self.reply_with(value, 0, &[]).await;
    }

    pub async fn reply_with(&self, value: Value, pipeid: u32, fds: &[OwnedFd]) {
        let reply = json!({ "success": true, "value": value, "pipeid": pipeid, "error": "" });
        self.send(reply.to_string().as_bytes(), fds).await;
    }

    /// Answers with an error.
    pub async fn refuse(&self, error: &str) {
        self.refuse_as("other", error).await;
    }

    pub async fn refuse_as(&self, code: &str, error: &str) {
        let reply = json!({
            "success": false, "value": null, "pipeid": 0, "error_code": code, "error": error,
        });
        self.send(reply.to_string().as_bytes(), &[]).await;
    }

    /// Answers with success, and hands out a pipe.
    pub async fn grant_pipe(&mut self, value: Value) -> PipeEnd {
        let id = self.next_pipe;
        self.next_pipe += 1;
        let (read, data) = pipe();
        self.reply_with(value, id, &[read]).await;
        PipeEnd { id, data }
    }

    /// Answers a `GetRawBlob` with success.
    pub async fn grant_raw(&self, size: i64) -> RawEnds {
        let ((data_read, data), (error_read, error)) = (pipe(), pipe());
        self.reply_with(json!(size), 0, &[data_read, error_read])
            .await;
        RawEnds { data, error }
    }

    /// Lets the caller open an image with the number `id`.
    pub async fn opens(&mut self, id: u64) {
        self.call("OpenImage").await;
        self.reply(json!(id)).await;
    }

    /// Hands out a document from memory, and finishes its pipe.
    pub async fn document(&mut self, value: Value, content: &[u8]) {
        let PipeEnd { id, mut data } = self.grant_pipe(value).await;
        // The document is written while the next call is awaited, as skopeo does.
        let write = async {
            let _ = data.write_all(content).await;
            drop(data);
        };
        tokio::join!(write, self.expect("FinishPipe", json!([id])));
        self.reply(Value::Null).await;
    }

    /// Checks that the connection still works in both directions, and that nothing unexpected was
    /// sent before.
    pub async fn check_idle(&mut self, proxy: &ImageProxy) {
        let reference = "idle-check:";
        let (image, ()) = tokio::join!(within_bound(proxy.open_image(reference)), async {
            self.expect("OpenImage", json!([reference])).await;
            self.reply(json!(999)).await;
        });
        let (closed, ()) = tokio::join!(within_bound(proxy.close_image(image.unwrap())), async {
            self.expect("CloseImage", json!([999])).await;
            self.reply(Value::Null).await;
        });
        closed.unwrap();
    }

    /// Drops the last handle, and expects an orderly end of the connection.
    pub async fn end(mut self, proxy: ImageProxy) {
        drop(proxy);
        self.expect("Shutdown", json!([])).await;
    }

    /// Drops the images, which must be closed, and the last handle.
    pub async fn end_with(mut self, proxy: ImageProxy, images: Vec<OpenedImage>) {
        let count = images.len();
        drop(images);
        for _ in 0..count {
            self.call("CloseImage").await;
            self.reply(Value::Null).await;
        }
        self.end(proxy).await;
    }

    /// Accepts unexpected calls from now on.
    pub fn lenient(&mut self) {
        self.strict = false;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.strict || std::thread::panicking() {
            return;
        }
        let mut packet = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = self.socket.try_recv(&mut packet) {
            let call = Call::parse(&packet[..length]);
            // The calls that dropped handles and images send by themselves.
            let background = ["CloseImage", "Shutdown"];
            assert!(
                background.contains(&call.method.as_str()),
                "nobody expected {call:?}"
            );
        }
    }
}

/// A pipe: the end to give away, and ours.
pub fn pipe() -> (OwnedFd, Sender) {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    (read, Sender::from_owned_fd(write).unwrap())
}

/// The two framings of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Piped, by `GetBlob` and `FinishPipe`.
    Piped,
    /// Raw, by `GetRawBlob`.
    Raw,
}

impl Framing {
    pub const BOTH: [Self; 2] = [Self::Piped, Self::Raw];

    /// A protocol version with this framing.
    pub fn version(self) -> &'static str {
        match self {
            Self::Piped => "0.2.6",
            Self::Raw => "0.2.8",
        }
    }
}

/// A blob that a peer is sending.
#[derive(Debug)]
pub struct Flow {
    pub data: Sender,
    /// The error pipe of a raw blob, or the number of the pipe to finish.
    end: Result<Sender, u32>,
}

impl Flow {
    /// Expects the call for a blob, and answers it with pipes.
    pub async fn grant(
        peer: &mut Peer,
        framing: Framing,
        digest: &Digest,
        size: u64,
        announced: i64,
    ) -> Self {
        match framing {
            Framing::Piped => {
                let args = peer.call("GetBlob").await;
                assert_eq!(args, json!([args[0], digest.to_string(), size]));
                let PipeEnd { id, data } = peer.grant_pipe(json!(announced)).await;
                Self { data, end: Err(id) }
            }
            Framing::Raw => {
                let args = peer.call("GetRawBlob").await;
                assert_eq!(args, json!([args[0], digest.to_string()]));
                let RawEnds { data, error } = peer.grant_raw(announced).await;
                Self {
                    data,
                    end: Ok(error),
                }
            }
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        within_bound(self.data.write_all(bytes)).await.unwrap();
    }

    /// Ends the blob as the server does, after everything is written.
    pub async fn end(self, peer: &mut Peer, error: Option<&str>) {
        let Self { data, end } = self;
        match end {
            Err(id) => {
                peer.expect("FinishPipe", json!([id])).await;
                drop(data);
                match error {
                    None => peer.reply(Value::Null).await,
                    Some(error) => peer.refuse(error).await,
                }
            }
            Ok(mut pipe) => {
                if let Some(error) = error {
                    let error = json!({ "code": "other", "message": error });
                    pipe.write_all(error.to_string().as_bytes()).await.unwrap();
                }
                drop((pipe, data));
            }
        }
    }

    /// The error pipe of a raw blob.
    pub fn error_pipe(&mut self) -> &mut Sender {
        self.end.as_mut().unwrap()
    }

    pub fn pipe_id(&self) -> Option<u32> {
        self.end.as_ref().err().copied()
    }
}
