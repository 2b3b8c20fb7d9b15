//! Helpers of the micro-benchmarks: a proxy that answers at once, a pipe that is always full, and CPU clocks.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::pipe2;

/// A size that exceeds every packet, in bytes.
pub const PACKET_BYTES: usize = 32 * 1024;

/// The number of bytes that are written into a pipe at a time, which is the maximum of Go's `io.Copy`.
const WRITE_BYTES: usize = 32 * 1024;

/// Answers `null` to everything but the calls below, on a thread of its own, until the other end is closed.
/// Every requested blob is `blob`. The receiver gets the CPU time of writing it into its pipe.
///
/// # Errors
///
/// If no socket can be made.
pub fn proxy(blob: Arc<[u8]>) -> io::Result<(OwnedFd, Receiver<Duration>)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let (sender, written) = channel();
    thread::spawn(move || answer_all(&ours, &blob, &sender));
    Ok((theirs, written))
}

fn answer_all(socket: &OwnedFd, blob: &Arc<[u8]>, written: &Sender<Duration>) -> io::Result<()> {
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())?;
        if length == 0 {
            return Ok(());
        }
        let call = &packet[..length];
        let names = |method: &[u8]| call.windows(method.len()).any(|word| word == method);
        if names(b"\"GetRawBlob\"") {
            let (data, writer) = pipe2(OFlag::O_CLOEXEC)?;
            let (error, _closed) = pipe2(OFlag::O_CLOEXEC)?;
            answer(socket, &blob.len().to_string(), &[data, error])?;
            let filling = fill(File::from(writer), Arc::clone(blob));
            let written = written.clone();
            thread::spawn(move || {
                if let Ok(Ok(took)) = filling.join() {
                    // The receiver may have been dropped.
                    let _ = written.send(took);
                }
            });
        } else if names(b"\"Initialize\"") {
            answer(socket, "\"0.2.8\"", &[])?;
        } else if names(b"\"OpenImage\"") {
            answer(socket, "1", &[])?;
        } else if names(b"\"OpenImageOptional\"") {
            answer(socket, "0", &[])?;
        } else {
            answer(socket, "null", &[])?;
        }
    }
}

fn answer(socket: &OwnedFd, value: &str, fds: &[OwnedFd]) -> io::Result<()> {
    let reply = format!(r#"{{"success":true,"value":{value},"pipeid":0,"error":""}}"#);
    let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    let iov = [IoSlice::new(reply.as_bytes())];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &iov, rights, flags, None)?;
    Ok(())
}

/// A pipe with this capacity, which a thread fills with these bytes. The thread sends the CPU time that
/// it used.
///
/// # Errors
///
/// If no such pipe can be made.
pub fn full_pipe(
    bytes: Arc<[u8]>,
    room: usize,
) -> io::Result<(File, JoinHandle<io::Result<Duration>>)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    let room = i32::try_from(room).map_err(io::Error::other)?;
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(room))?;
    Ok((reader.into(), fill(writer.into(), bytes)))
}

fn fill(mut pipe: File, bytes: Arc<[u8]>) -> JoinHandle<io::Result<Duration>> {
    thread::spawn(move || {
        for piece in bytes.chunks(WRITE_BYTES) {
            pipe.write_all(piece)?;
        }
        cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID)
    })
}

/// Returns the CPU time of all threads of this process.
///
/// # Errors
///
/// No errors are known.
pub fn process_cpu_time() -> io::Result<Duration> {
    cpu_time(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn cpu_time(clock: ClockId) -> io::Result<Duration> {
    Ok(Duration::from(clock_gettime(clock)?))
}
