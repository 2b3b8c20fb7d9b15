//! The only unsafe code: calls that nix lacks, or that deal in raw descriptors.
//! Everything that leaves here is owned.

#![allow(
    unsafe_code,
    reason = "the one module for it; each block says why it is sound"
)]

use std::ffi::CStr;
use std::fs::DirBuilder;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// The most descriptors that one message carries (Linux: `SCM_MAX_FD`), so
/// that only our own limit of open files can make the kernel drop some.
const MAX_FDS: usize = 253;

/// What one `recvmsg` brought.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) truncated: bool,
    pub(crate) fds_lost: bool,
}

/// Room for one control message with [`MAX_FDS`] descriptors, aligned as the
/// kernel wants it.
#[repr(C)]
union ControlBuffer {
    _align: libc::cmsghdr,
    bytes: [u8; CONTROL_BYTES],
}

// SAFETY: CMSG_SPACE only computes.
#[expect(clippy::cast_possible_truncation, reason = "about a kilobyte")]
const CONTROL_BYTES: usize =
    unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize;

/// Receive one packet without blocking. nix's own `recvmsg` gives no access to
/// the descriptors of a message from which others were lost; they would stay
/// open for ever.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = ControlBuffer {
        bytes: [0; CONTROL_BYTES],
    };
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zero is a valid msghdr (no name, no buffers).
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_BYTES as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header points to buffers that outlive the call, with their true lengths.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let bytes = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;

    let mut fds = Vec::new();
    // SAFETY: the kernel filled in the header and the control buffer; CMSG_FIRSTHDR and
    // CMSG_NXTHDR stay within msg_controllen, and each SCM_RIGHTS message holds as many
    // descriptors, new in this process and ours alone, as its length says.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS
            {
                #[expect(clippy::cast_ptr_alignment, reason = "read unaligned, below")]
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                #[allow(
                    clippy::unnecessary_cast,
                    reason = "its type differs between C libraries"
                )]
                let length = (*message).cmsg_len as usize - (data as usize - message as usize);
                for index in 0..length / size_of::<RawFd>() {
                    let fd = data.add(index).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Ok(Received {
        bytes,
        fds,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        fds_lost: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// A descriptor that becomes readable when the process ends (Linux 5.3).
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed. A result that is not negative is a new descriptor, ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
        fd.map(|fd| OwnedFd::from_raw_fd(fd))
            .ok_or_else(io::Error::last_os_error)
    }
}

/// Whether the process of this pidfd is still there, be it as a zombie: nobody has reaped it.
pub(crate) fn is_there(pidfd: impl AsFd) -> bool {
    // SAFETY: the descriptor is open, and no memory is passed.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    sent == 0
}

/// Make the child die with the thread that starts it, and keep `passed` open
/// in it under their present numbers.
///
/// By `SIGKILL`, for one that is stopped, or ignores `SIGTERM`, would outlive us,
/// and nobody would be left to see to it. A skopeo that listens has ended before:
/// its socket is closed.
pub(crate) fn tie_to_parent(command: &mut Command, passed: &[Arc<OwnedFd>]) {
    let parent = nix::unistd::getpid();
    let passed: Vec<RawFd> = passed.iter().map(AsRawFd::as_raw_fd).collect();
    let in_child = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // The parent died before the line above took effect.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        for fd in &passed {
            // SAFETY: the parent keeps these open until after the start.
            let result = unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) };
            if result == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes only system calls that are safe between fork and exec, and
    // allocates nothing.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// A second descriptor for the same file, numbered `lowest` or higher.
pub(crate) fn duplicate_above(file: impl AsFd, lowest: RawFd) -> io::Result<OwnedFd> {
    let fd = fcntl(file.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the descriptor is new, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Have the child see an empty, read-only folder where skopeo keeps its
/// blob-info cache for root, in a mount namespace of its own. skopeo then keeps
/// the cache in memory. Nothing else changes, and where it is not allowed (in
/// most containers) nothing at all does.
///
/// What the host mounts and unmounts later is seen by the child, too (`MS_SLAVE`); otherwise the namespace
/// would keep file systems busy that the host wants to unmount, and miss those that are mounted when they are
/// first used.
///
/// The folder is made if it is not there, for there is nothing else that could be covered: as skopeo
/// itself would make it, and empty.
pub(crate) fn hide_system_cache(command: &mut Command) {
    const CACHE: &CStr = c"/var/lib/containers/cache";
    // As skopeo would make it (containers/image, `blobinfocache`).
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create("/var/lib/containers/cache");
    if made.is_err() {
        return;
    }
    let in_child = || {
        let none = std::ptr::null();
        // SAFETY: system calls with constant, terminated strings; safe between fork and exec.
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    none,
                    c"/".as_ptr(),
                    none,
                    libc::MS_REC | libc::MS_SLAVE,
                    none.cast(),
                ) == 0
            {
                libc::mount(
                    c"none".as_ptr(),
                    CACHE.as_ptr(),
                    c"tmpfs".as_ptr(),
                    libc::MS_RDONLY,
                    none.cast(),
                );
            }
        }
        Ok(())
    };
    // SAFETY: as `tie_to_parent`.
    unsafe {
        command.pre_exec(in_child);
    }
}
