//! The only unsafe code of this crate: it takes over descriptors whose numbers the kernel reports, and sets a child up
//! between fork and exec. Every descriptor that leaves this module is owned.

#![allow(
    unsafe_code,
    reason = "the one module for it; each block says why it is sound"
)]

use std::ffi::{CStr, OsStr};
use std::fs::DirBuilder;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recvmsg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid};

/// The maximum number of descriptors in one message (Linux: `SCM_MAX_FD`). The buffer for control messages has room for
/// all of them, so the kernel drops descriptors only if this process reaches its limit of open files.
const MAX_FDS: usize = 253;

/// The size of the length field at the start of a control message, in bytes. Messages are aligned to this size.
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

/// A buffer for control messages, with the alignment that the kernel and nix require.
#[repr(align(8))]
struct ControlBuffer<const N: usize>([u8; N]);

/// Receives one packet without blocking.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with_room::<CONTROL_BYTES>(socket, buffer)
}

/// Receives one packet without blocking. `CONTROL` is the size of the buffer for its control messages, in bytes.
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
    // nix reads no control messages if some were lost. The descriptors that arrived would then stay open for ever.
    let fds = descriptors(&control.0).into_iter();
    // SAFETY: the kernel has just opened these descriptors in this process, and no other code knows their numbers.
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
/// The kernel's layout is the same for every C library: the length in a word, the level, the type, then
/// the descriptors.
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

/// Returns a descriptor that becomes readable when the process ends (Linux 5.3). `waitid` accepts it from Linux
/// 5.4 on.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed. A result that is not negative is a new descriptor, which only this code knows.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
        fd.map(|fd| OwnedFd::from_raw_fd(fd))
            .ok_or_else(io::Error::last_os_error)
    }
}

/// Whether the child of this pidfd has not been reaped: the child runs, or is a zombie.
pub(crate) fn is_unreaped(pidfd: impl AsFd) -> bool {
    let no_reaping = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // nix fails with EINVAL for a zombie that a real-time signal killed.
    waitid(Id::PIDFd(pidfd.as_fd()), no_reaping) != Err(Errno::ECHILD)
}

/// Returns a second descriptor for the same file, numbered `lowest` or higher.
pub(crate) fn duplicate_above(file: impl AsFd, lowest: RawFd) -> io::Result<OwnedFd> {
    let fd = fcntl(file, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the descriptor is new, and only this code knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Prepares a command so that its child is killed when the thread that started the child ends. The files `passed` stay
/// open in the child, under their current numbers. `hide_cache` also hides skopeo's system-wide blob-info cache from
/// the child.
///
/// The signal is `SIGKILL`, because a child that is stopped or ignores `SIGTERM` would outlive this process. A skopeo
/// that reads its socket exits anyway, because the socket is closed.
pub(crate) fn prepare_child(command: &mut Command, passed: &[Arc<OwnedFd>], hide_cache: bool) {
    let parent = getpid();
    let passed = passed.to_vec();
    let hide_cache = hide_cache && make_system_cache().is_ok();
    let in_child = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // The parent died before the signal was set.
            return Err(Errno::ESRCH.into());
        }
        for fd in &passed {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        if hide_cache {
            // If the system does not allow that, the child shares the cache.
            let _ = hide_system_cache();
        }
        Ok(())
    };
    // SAFETY: the closure makes only system calls that are safe between fork and exec. It allocates no memory, because
    // nix passes C strings unchanged.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// The folder of skopeo's system-wide blob-info cache, which skopeo uses for root (containers/image, `blobinfocache`).
const SYSTEM_CACHE: &CStr = c"/var/lib/containers/cache";

/// Makes the folder [`SYSTEM_CACHE`] as skopeo would, because only an existing folder can be mounted over.
fn make_system_cache() -> io::Result<()> {
    let path = OsStr::from_bytes(SYSTEM_CACHE.to_bytes());
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Mounts an empty, read-only folder over [`SYSTEM_CACHE`], in a mount namespace of this process's own. skopeo then
/// keeps the cache in memory. Returns an error, and changes nothing, where namespaces are not allowed, as in
/// most containers.
///
/// The process still sees what the host mounts and unmounts later (`MS_SLAVE`). Otherwise, the namespace would keep
/// file systems busy that the host wants to unmount, and would miss file systems that an automounter mounts later.
///
/// This function runs between fork and exec.
fn hide_system_cache() -> nix::Result<()> {
    const NONE: Option<&CStr> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, c"/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    let tmpfs = Some(c"tmpfs");
    mount(Some(c"none"), SYSTEM_CACHE, tmpfs, MsFlags::MS_RDONLY, NONE)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Stdio};

    use nix::fcntl::OFlag;
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

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC).expect("a pipe")
    }

    /// Sends a packet with `count` copies of a pipe's write end, and closes that end here.
    fn send(socket: &OwnedFd, packet: &[u8], writer: OwnedFd, count: usize) {
        let fds = vec![writer.as_raw_fd(); count];
        let packet = [io::IoSlice::new(packet)];
        let rights = [ControlMessage::ScmRights(&fds)];
        let socket = socket.as_raw_fd();
        sendmsg::<()>(socket, &packet, &rights, MsgFlags::empty(), None).expect("sent");
        drop(writer);
    }

    /// Whether this event happens within 10 s.
    fn happens(fd: impl AsFd, event: PollFlags) -> bool {
        let mut fds = [PollFd::new(fd.as_fd(), event)];
        let polled = poll(&mut fds, PollTimeout::from(10_000_u16));
        polled == Ok(1) && fds[0].revents().is_some_and(|found| found.contains(event))
    }

    #[track_caller]
    fn assert_no_writer(reader: &OwnedFd) {
        assert!(happens(reader, PollFlags::POLLHUP), "a writer is open");
    }

    #[test]
    fn truncated_control_messages_leak_no_descriptor() {
        let (ours, theirs) = sockets();
        for (sent, kept) in [(1, 1), (2, 2), (3, 2), (4, 2), (MAX_FDS, 2)] {
            let (reader, writer) = pipe();
            send(&theirs, b"packet", writer, sent);
            let mut buffer = [0; 10];
            let received = receive_with_room::<ROOM_FOR_TWO>(&ours, &mut buffer).expect("one");
            assert_eq!((received.bytes, received.fds.len()), (6, kept));
            assert_eq!(
                (received.truncated, received.fds_lost),
                (false, sent > kept)
            );
            // This process owns the descriptors that arrived. Those that did not arrive are closed.
            for fd in received.fds {
                File::from(fd).write_all(b"x").expect("it is a pipe");
            }
            assert_no_writer(&reader);
        }
    }

    #[test]
    fn without_room_for_a_control_message_none_is_read() {
        let (ours, theirs) = sockets();
        let (reader, writer) = pipe();
        send(&theirs, b"packet", writer, 2);
        let received = receive_with_room::<0>(&ours, &mut [0; 10]).expect("one");
        assert!(received.fds.is_empty() && received.fds_lost);
        assert_no_writer(&reader);
    }

    #[test]
    fn a_packet_carries_as_many_descriptors_as_linux_allows() {
        let (ours, theirs) = sockets();
        let (reader, writer) = pipe();
        send(&theirs, b"packet", writer, MAX_FDS);
        let mut buffer = [0; 3];
        let received = receive(&ours, &mut buffer).expect("one");
        assert_eq!((received.bytes, received.fds.len()), (3, MAX_FDS));
        assert!(received.truncated && !received.fds_lost);
        for fd in &received.fds {
            let flags = fcntl(fd, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain);
            assert_eq!(flags, Ok(FdFlag::FD_CLOEXEC));
        }
        drop(received);
        assert_no_writer(&reader);
        let nothing = receive(&ours, &mut buffer).expect_err("nothing was sent");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn descriptors_are_found_after_another_control_message() {
        let (ours, theirs) = sockets();
        setsockopt(&ours, sockopt::PassCred, &true).expect("the credentials of who sends");
        let (reader, writer) = pipe();
        send(&theirs, b"packet", writer, 3);
        let received = receive(&ours, &mut [0; 10]).expect("one");
        assert_eq!((received.fds.len(), received.fds_lost), (3, false));
        drop(received);
        assert_no_writer(&reader);
    }

    #[test]
    fn parsing_of_control_messages_stops_at_an_invalid_length() {
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
        // These messages are too short for a descriptor.
        for short in [WORD, WORD + 3, WORD + 4, WORD + 8, length - 1] {
            assert!(descriptors(&message(short, &rights)).is_empty());
        }
        assert!(descriptors(&whole[..WORD - 1]).is_empty());
        assert!(descriptors(&[]).is_empty());
    }

    fn pid(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed())
    }

    #[test]
    fn a_child_is_unreaped_until_it_is_waited_for() {
        // The last child dies of a real-time signal.
        let ends = [
            ("exit 3", None),
            ("kill -9 $$", Some(libc::SIGKILL)),
            ("kill -40 $$", Some(40)),
        ];
        for (ending, signal) in ends {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("read line; {ending}")]);
            let mut child = command.stdin(Stdio::piped()).spawn().expect("a shell");
            let pidfd = pidfd_open(pid(&child)).expect("it is there");
            assert!(is_unreaped(&pidfd), "{ending}");
            drop(child.stdin.take());
            assert!(happens(&pidfd, PollFlags::POLLIN), "{ending}");
            assert!(is_unreaped(&pidfd), "a zombie, after {ending}");
            let status = child.wait().expect("nobody else waits for it");
            assert_eq!(status.signal(), signal);
            assert!(!is_unreaped(&pidfd), "{ending}");
        }
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_pidfd() {
        // This number is far above the highest process number of Linux.
        let error = pidfd_open(Pid::from_raw(i32::MAX)).expect_err("no process");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_duplicate_has_at_least_the_wanted_number() {
        let (reader, writer) = pipe();
        let duplicate = duplicate_above(&writer, 100).expect("there is room");
        assert!(duplicate.as_raw_fd() >= 100);
        let flags = fcntl(&duplicate, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain);
        assert_eq!(flags, Ok(FdFlag::FD_CLOEXEC));
        drop(writer);
        File::from(duplicate)
            .write_all(b"x")
            .expect("the same pipe");
        assert_no_writer(&reader);
        let (_, writer) = pipe();
        duplicate_above(&writer, RawFd::MAX).expect_err("beyond the limit");
    }

    #[test]
    fn a_child_keeps_the_files_that_are_passed_and_no_others() {
        let pipes = || {
            let (reader, writer) = pipe();
            (File::from(reader), Arc::new(writer))
        };
        let ((mut reader, passed), (_other_reader, other)) = (pipes(), pipes());
        let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mut command = Command::new("sh");
        let script = "echo seen > $0; test ! -e $1";
        command.args(["-c", script, &path(&passed), &path(&other)]);
        prepare_child(&mut command, &[Arc::clone(&passed)], false);
        assert!(command.status().expect("a shell").success());
        drop((command, passed));
        let mut seen = String::new();
        reader.read_to_string(&mut seen).expect("text");
        assert_eq!(seen, "seen\n");
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let start = || {
            let mut command = Command::new("sleep");
            prepare_child(command.arg("60"), &[], false);
            command.spawn().expect("it starts")
        };
        let mut child = std::thread::spawn(start).join().expect("a child");
        let status = child.wait().expect("nobody else waits for it");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
