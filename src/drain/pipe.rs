//! The read end of a pipe, registered with tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use tokio::net::unix::pipe::Receiver;

/// The capacity that is requested for the pipe of a blob, in bytes. A pipe starts with 64 KiB. Larger pipes
/// make whole pulls faster up to this size; docs/decisions.md has the measurement.
const BLOB_PIPE_BYTES: i32 = 512 * 1024;

/// Whether the descriptor is the read end of a pipe.
pub(crate) fn is_readable(fd: &OwnedFd) -> bool {
    let is_pipe = fstat(fd).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
    });
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    is_pipe && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE != OFlag::O_WRONLY)
}

/// Makes a non-blocking reader of a pipe. Returns an error if the descriptor is not the read end of a pipe. This
/// function must be called within a tokio runtime.
pub(crate) fn reader(fd: OwnedFd) -> io::Result<Receiver> {
    Receiver::from_owned_fd(fd)
}

/// Makes a reader like [`reader`], with a larger pipe if the system allows it. The system refuses ordinary
/// users more pages than `/proc/sys/fs/pipe-user-pages-soft`. A smaller pipe is only slower.
pub(crate) fn blob_reader(fd: OwnedFd) -> io::Result<Receiver> {
    if let Err(errno) = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(BLOB_PIPE_BYTES)) {
        tracing::trace!(%errno, "the pipe keeps its size");
    }
    reader(fd)
}
