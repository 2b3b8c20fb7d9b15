//! The read end of a pipe, as the reactor wants it.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use tokio::net::unix::pipe::Receiver;

/// What we ask the kernel to hold for a blob. A pipe starts with 64 KiB; with
/// 256 KiB, whole pulls take a tenth less time, with 512 KiB some 5 % less still,
/// and 1 MiB brings little more.
const BLOB_PIPE_BYTES: i32 = 512 * 1024;

/// Whether this is a pipe's read end.
pub(crate) fn is_readable(fd: &OwnedFd) -> bool {
    let is_pipe = fstat(fd).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
    });
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    is_pipe && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE != OFlag::O_WRONLY)
}

/// A non-blocking reader of this pipe. `Err` if it is no pipe's read end.
pub(crate) fn reader(fd: OwnedFd) -> io::Result<Receiver> {
    Receiver::from_owned_fd(fd)
}

/// The same, with a larger buffer where the system lets us have it: pages
/// over `/proc/sys/fs/pipe-user-pages-soft` are refused to ordinary users, and
/// a smaller pipe is only slower.
pub(crate) fn blob_reader(fd: OwnedFd) -> io::Result<Receiver> {
    if let Err(errno) = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(BLOB_PIPE_BYTES)) {
        tracing::trace!(%errno, "the pipe keeps its size");
    }
    reader(fd)
}
