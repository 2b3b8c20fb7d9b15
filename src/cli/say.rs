//! Writes messages to stderr and output to stdout. A slow reader never blocks a thread of the runtime, and a closed
//! stream is no error.

use std::io::{self, IsTerminal, Write};

use longshore::printable;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::writer::{Message, Writer};

/// Writes this line to stderr, without waiting.
pub(crate) fn say(line: impl Into<String>) {
    let mut line: String = line.into();
    line.push('\n');
    if let Some(writer) = Writer::get() {
        writer.send(line.into_bytes());
    }
}

/// Writes this line to stderr as the last one, in place of the picture of progress. Messages that other threads send
/// later are not written.
pub(crate) fn say_last(line: impl Into<String>) {
    let mut line: String = line.into();
    line.push('\n');
    if let Some(writer) = Writer::get() {
        writer.send_last(line.into_bytes());
    }
}

/// Shows these lines below all others, in place of those that were shown before. They are left out while the
/// terminal is too slow. An empty list removes the lines.
pub(crate) fn show(lines: Vec<String>) {
    if let Some(writer) = Writer::get() {
        writer.show(lines);
    }
}

/// Writes this line to stderr, and waits while too many others wait to be written. Blocks.
pub(crate) fn say_blocking(line: impl Into<String>) {
    let mut line: String = line.into();
    line.push('\n');
    if let Some(writer) = Writer::get() {
        writer.send_blocking(line.into_bytes());
    }
}

/// Waits until all messages have been written, without a time limit.
pub(crate) async fn flush_stderr() {
    // This blocks while the queue is full, so it needs a thread of its own.
    let waiting = tokio::task::spawn_blocking(flush_stderr_blocking);
    // The closure does not panic.
    let _ = waiting.await;
}

/// Waits like [`flush_stderr`], without a runtime.
pub(crate) fn flush_stderr_blocking() {
    let Some(writer) = Writer::get() else { return };
    writer.report_dropped_lines();
    let (written, wait) = oneshot::channel();
    // Both operations fail only if the thread is gone.
    if writer.send_and_wait(Message::Flush(written)) {
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
        // stdout and stderr may be the same terminal.
        let _hidden = io::stdout().is_terminal().then(HidePictureGuard::new);
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

/// A guard: until it is dropped, the picture of progress is not on the terminal.
#[derive(Debug)]
pub(crate) struct HidePictureGuard {
    has_hidden: bool,
}

impl HidePictureGuard {
    /// Hides the picture, if there is one. Blocks until that is done.
    pub(crate) fn new() -> Self {
        let mut has_hidden = false;
        if let Some(writer) = Writer::get()
            && writer.has_shown()
        {
            let (hidden, wait) = oneshot::channel();
            has_hidden = writer.send_and_wait(Message::Hide(hidden));
            if has_hidden {
                let _ = wait.blocking_recv();
            }
        }
        Self { has_hidden }
    }
}

impl Drop for HidePictureGuard {
    fn drop(&mut self) {
        if self.has_hidden
            && let Some(writer) = Writer::get()
        {
            writer.send_and_wait(Message::Unhide);
        }
    }
}
