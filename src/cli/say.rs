//! Writes messages to stderr and output to stdout. A reader that is slow holds up nothing, and a closed
//! stream breaks nothing.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use longshore::printable;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::format::counted;

/// How many lines may wait to be written. Further ones are left out.
const LINES: usize = 10_000;

#[derive(Debug)]
enum Message {
    Text(Vec<u8>),
    /// A request to confirm that all earlier messages have been written.
    Written(oneshot::Sender<()>),
}

/// The thread that writes to stderr, which may block.
#[derive(Debug)]
struct Writer {
    messages: SyncSender<Message>,
    left_out: AtomicUsize,
    /// Whether the last message has been sent.
    is_over: AtomicBool,
}

impl Writer {
    /// The writer, which is started at the first call. `None` if the thread can't be started; nothing is
    /// written then.
    fn get() -> Option<&'static Self> {
        static WRITER: OnceLock<Option<Writer>> = OnceLock::new();
        let start = || {
            let (messages, received) = sync_channel(LINES);
            let thread = thread::Builder::new().name("longshore-stderr".into());
            thread.spawn(move || write(&received)).ok()?;
            let left_out = AtomicUsize::new(0);
            let is_over = AtomicBool::new(false);
            Some(Self {
                messages,
                left_out,
                is_over,
            })
        };
        WRITER.get_or_init(start).as_ref()
    }

    fn send(&self, text: Vec<u8>) {
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        let lines = counted(left_out, "line");
        let note = format!("({lines} left out, because stderr was not read)\n");
        let messages = [(note.into_bytes(), left_out), (text, 1)];
        // How many lines will count as left out if the next message does not fit.
        let mut unsent = left_out + 1;
        for (text, lines) in messages.into_iter().filter(|(_, lines)| *lines > 0) {
            if let Err(TrySendError::Full(_)) = self.messages.try_send(Message::Text(text)) {
                self.left_out.fetch_add(unsent, Ordering::Relaxed);
                return;
            }
            unsent -= lines;
        }
    }
}

fn write(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            // stderr may be closed.
            Message::Text(text) => drop(io::stderr().write_all(&text)),
            // The receiver may be gone.
            Message::Written(written) => drop(written.send(())),
        }
    }
}

/// Writes this line to stderr, without waiting.
pub(crate) fn say(line: impl Into<String>) {
    let mut line: String = line.into();
    line.push('\n');
    if let Some(writer) = Writer::get() {
        writer.send(line.into_bytes());
    }
}

/// Writes this line to stderr as the last one. Other threads may not know yet that the command is ending.
pub(crate) fn say_last(line: impl Into<String>) {
    say(line);
    if let Some(writer) = Writer::get() {
        writer.is_over.store(true, Ordering::Relaxed);
    }
}

/// Waits until all messages have been written. A slow reader is waited for without a limit.
pub(crate) async fn all_said() {
    // This blocks while the queue is full, so it needs a thread of its own.
    let waiting = tokio::task::spawn_blocking(all_said_blocking);
    // The closure does not panic.
    let _ = waiting.await;
}

/// Waits like [`all_said`], without a runtime.
pub(crate) fn all_said_blocking() {
    let Some(writer) = Writer::get() else { return };
    let (written, wait) = oneshot::channel();
    // Both operations fail only if the thread is gone.
    if writer.messages.send(Message::Written(written)).is_ok() {
        let _ = wait.blocking_recv();
    }
}

/// The writer for [`tracing_subscriber`], which gets one log event at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if let Some(writer) = Writer::get() {
            writer.send(event.to_vec());
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints this text on stdout, on a blocking thread. A closed stdout is no failure.
pub(crate) async fn print(text: String) -> Result<(), Failure> {
    print_bytes(text.into_bytes()).await
}

/// Prints a document from outside on stdout, byte for byte. On a terminal, what could control it is replaced, and the
/// document ends with a line break.
pub(crate) async fn print_document(document: Vec<u8>) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return print_bytes(document).await;
    }
    let text = String::from_utf8_lossy(&document);
    let lines = text.lines().flat_map(|line| [printable(line), "\n".into()]);
    print(lines.collect()).await
}

async fn print_bytes(bytes: Vec<u8>) -> Result<(), Failure> {
    let printing = tokio::task::spawn_blocking(move || {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&bytes)?;
        stdout.flush()
    });
    match printing.await.map_err(anyhow::Error::from)? {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(anyhow::Error::from(error)
            .context("can't write to stdout")
            .into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_that_is_left_out_is_counted_once() {
        let (messages, received) = sync_channel(2);
        let writer = Writer {
            messages,
            left_out: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        };
        let take = || match received.try_recv() {
            Ok(Message::Text(text)) => String::from_utf8_lossy(&text).into_owned(),
            other => panic!("{other:?}"),
        };
        let say = |line: &str| writer.send(line.as_bytes().to_vec());
        ["1", "2", "3", "4"].into_iter().for_each(say);
        assert_eq!(take(), "1");
        // The queue has space for the note, but not for the line.
        say("5");
        assert_eq!(take(), "2");
        assert_eq!(take(), "(2 lines left out, because stderr was not read)\n");
        say("6");
        assert_eq!(take(), "(1 line left out, because stderr was not read)\n");
        assert_eq!(take(), "6");
    }
}
