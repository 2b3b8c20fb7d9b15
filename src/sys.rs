//! The only unsafe code: calls that nix lacks, or that deal in raw descriptors.
//! Everything that leaves here is owned.

#![allow(
    unsafe_code,
    reason = "the one module for it; each block says why it is sound"
)]

use std::ffi::CStr;
use std::fs::DirBuilder;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recvmsg};
use nix::unistd::{Pid, getppid};

/// The most descriptors that one message carries (Linux: `SCM_MAX_FD`), so
/// that only our own limit of open files can make the kernel drop some.
const MAX_FDS: usize = 253;

/// The size of the length with which a control message begins, and to which messages are aligned, in bytes.
const WORD: usize = size_of::<usize>();

/// The size of a control message with [`MAX_FDS`] descriptors, in bytes: its length, level, type and descriptors.
const CONTROL_BYTES: usize = (WORD + (2 + MAX_FDS) * size_of::<RawFd>()).next_multiple_of(WORD);

/// The packet that one `recvmsg` received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) truncated: bool,
    pub(crate) fds_lost: bool,
}

/// Room for control messages, aligned as the kernel and nix want it.
#[repr(align(8))]
struct ControlBuffer<const N: usize>([u8; N]);

/// Receives one packet without blocking.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with_room::<CONTROL_BYTES>(socket, buffer)
}

/// Receives one packet without blocking, with this room for its control messages, in bytes.
fn receive_with_room<const CONTROL: usize>(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<Received> {
    let mut control = ControlBuffer([0; CONTROL]);
    let (bytes, flags) = {
        let mut buffers = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let socket = socket.as_fd().as_raw_fd();
        let received = recvmsg::<()>(socket, &mut buffers, Some(&mut control.0), flags)?;
        (received.bytes, received.flags)
    };
    // Read here, because nix reads no control messages if some were lost: those that arrived would stay open for ever.
    let fds = descriptors(&control.0).into_iter();
    // SAFETY: the kernel has just opened these descriptors in this process, and nobody else knows of them.
    let fds = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    Ok(Received {
        bytes,
        fds,
        truncated: flags.contains(MsgFlags::MSG_TRUNC),
        fds_lost: flags.contains(MsgFlags::MSG_CTRUNC),
    })
}

/// Returns the descriptors in the control messages that the kernel wrote into a buffer of zeros.
///
/// The kernel's layout is the same for every C library: the length in a word, level, type, then the descriptors.
fn descriptors(mut control: &[u8]) -> Vec<RawFd> {
    let mut fds = Vec::new();
    while let Some(length) = control.first_chunk::<WORD>() {
        let length = usize::from_ne_bytes(*length);
        // After the last message, the length is 0.
        let Some(message) = control.get(WORD..length) else {
            break;
        };
        let (numbers, _) = message.as_chunks();
        let mut numbers = numbers.iter().map(|bytes| RawFd::from_ne_bytes(*bytes));
        let kind = (numbers.next(), numbers.next());
        if kind == (Some(libc::SOL_SOCKET), Some(libc::SCM_RIGHTS)) {
            fds.extend(numbers);
        }
        let next = length.next_multiple_of(WORD);
        control = control.get(next..).unwrap_or_default();
    }
    fds
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use nix::fcntl::{FdFlag, OFlag};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{
        AddressFamily, ControlMessage, SockFlag, SockType, sendmsg, setsockopt, socketpair, sockopt,
    };
    use nix::unistd::pipe2;

    use super::*;

    /// Room for two descriptors.
    const ROOM_FOR_TWO: usize = WORD + 4 * size_of::<RawFd>();

    fn sockets() -> (OwnedFd, OwnedFd) {
        let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        socketpair(AddressFamily::Unix, kind, None, flags).expect("a socket pair")
    }

    fn pipes(count: usize) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
        let pipe = |_| pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        (0..count).map(pipe).unzip()
    }

    fn send(socket: &OwnedFd, packet: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let packet = [io::IoSlice::new(packet)];
        let rights = [ControlMessage::ScmRights(&fds)];
        let socket = socket.as_raw_fd();
        sendmsg::<()>(socket, &packet, &rights, MsgFlags::empty(), None).expect("sent");
    }

    /// Whether this happens within 10 s.
    fn happens(fd: impl AsFd, event: PollFlags) -> bool {
        let mut fds = [PollFd::new(fd.as_fd(), event)];
        let polled = poll(&mut fds, PollTimeout::from(10_000_u16));
        polled == Ok(1) && fds[0].revents().is_some_and(|found| found.contains(event))
    }

    #[track_caller]
    fn assert_all_closed(readers: &[OwnedFd]) {
        for reader in readers {
            assert!(happens(reader, PollFlags::POLLHUP), "a writer is open");
        }
    }

    #[test]
    fn truncated_control_messages_leak_no_descriptor() {
        let (ours, theirs) = sockets();
        for (sent, kept) in [(1, 1), (2, 2), (3, 2), (4, 2), (MAX_FDS, 2)] {
            let (readers, writers) = pipes(sent);
            send(&theirs, b"packet", &writers);
            drop(writers);
            let mut buffer = [0; 10];
            let received = receive_with_room::<ROOM_FOR_TWO>(&ours, &mut buffer).expect("one");
            assert_eq!((received.bytes, received.fds.len()), (6, kept));
            assert_eq!(
                (received.truncated, received.fds_lost),
                (false, sent > kept)
            );
            // Those that arrived are ours, those that did not are nobody's.
            for fd in received.fds {
                File::from(fd).write_all(b"x").expect("it is a pipe");
            }
            assert_all_closed(&readers);
        }
    }

    #[test]
    fn without_room_for_a_control_message_none_is_read() {
        let (ours, theirs) = sockets();
        let (readers, writers) = pipes(2);
        send(&theirs, b"packet", &writers);
        drop(writers);
        let received = receive_with_room::<0>(&ours, &mut [0; 10]).expect("one");
        assert!(received.fds.is_empty() && received.fds_lost);
        assert_all_closed(&readers);
    }

    #[test]
    fn a_packet_carries_as_many_descriptors_as_linux_allows() {
        let (ours, theirs) = sockets();
        let (readers, writers) = pipes(MAX_FDS);
        send(&theirs, b"packet", &writers);
        drop(writers);
        let mut buffer = [0; 3];
        let received = receive(&ours, &mut buffer).expect("one");
        assert_eq!((received.bytes, received.fds.len()), (3, MAX_FDS));
        assert!(received.truncated && !received.fds_lost);
        for fd in &received.fds {
            let flags = fcntl(fd, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain);
            assert_eq!(flags, Ok(FdFlag::FD_CLOEXEC));
        }
        drop(received);
        assert_all_closed(&readers);
        let nothing = receive(&ours, &mut buffer).expect_err("nothing was sent");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn descriptors_are_found_behind_another_control_message() {
        let (ours, theirs) = sockets();
        setsockopt(&ours, sockopt::PassCred, &true).expect("the credentials of who sends");
        let (readers, writers) = pipes(3);
        send(&theirs, b"packet", &writers);
        drop(writers);
        let received = receive(&ours, &mut [0; 10]).expect("one");
        assert_eq!((received.fds.len(), received.fds_lost), (3, false));
        drop(received);
        assert_all_closed(&readers);
    }

    #[test]
    fn control_messages_end_where_their_lengths_make_no_sense() {
        let message = |length: usize, numbers: &[i32]| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
            bytes.resize(bytes.len().next_multiple_of(WORD), 0);
            bytes
        };
        let rights = [libc::SOL_SOCKET, libc::SCM_RIGHTS, 7];
        let length = WORD + size_of_val(&rights);
        let whole = message(length, &rights);
        assert_eq!(descriptors(&whole), [7]);
        assert_eq!(
            descriptors(&[whole.clone(), whole.clone()].concat()),
            [7, 7]
        );
        for wrong in [0, 1, WORD - 1, 2 * whole.len() + 1, usize::MAX] {
            let wrong = [whole.clone(), message(wrong, &rights)].concat();
            assert_eq!(descriptors(&wrong), [7]);
        }
        // Too short for a descriptor.
        for short in [WORD, WORD + 3, WORD + 4, WORD + 8, length - 1] {
            assert!(descriptors(&message(short, &rights)).is_empty());
        }
        assert!(descriptors(&whole[..WORD - 1]).is_empty());
        assert!(descriptors(&[]).is_empty());
    }

    #[test]
    fn a_duplicate_is_numbered_as_high_as_wanted() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let duplicate = duplicate_above(&writer, 100).expect("there is room");
        assert!(duplicate.as_raw_fd() >= 100);
        let flags = fcntl(&duplicate, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain);
        assert_eq!(flags, Ok(FdFlag::FD_CLOEXEC));
        drop(writer);
        File::from(duplicate)
            .write_all(b"x")
            .expect("the same pipe");
        assert_all_closed(&[reader]);
        let (_, writer) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        duplicate_above(&writer, RawFd::MAX).expect_err("beyond the limit");
    }
}
