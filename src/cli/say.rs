//! What the command says, on stderr, and prints, on stdout. Who does not read it holds nothing up, and who
//! has stopped reading it breaks nothing.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use tokio::sync::oneshot;

use super::failure::Failure;

/// How many lines may wait for somebody to read them. Further ones are left out.
const LINES: usize = 10_000;

#[derive(Debug)]
enum Message {
    Text(Vec<u8>),
    /// All that was said before is written.
    Written(oneshot::Sender<()>),
}

/// The thread that writes to stderr, which may block.
#[derive(Debug)]
struct Writer {
    messages: SyncSender<Message>,
    left_out: AtomicUsize,
    /// The last line was said.
    is_over: AtomicBool,
}

impl Writer {
    /// `None` if there can be no thread for it; then nothing is said.
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
        let note = format!("({left_out} lines left out, for nobody read them)\n");
        let messages = [(note.into_bytes(), left_out), (text, 1)];
        // How many lines are still to be told of, after each message.
        let mut untold = left_out + 1;
        for (text, lines) in messages.into_iter().filter(|(_, lines)| *lines > 0) {
            if let Err(TrySendError::Full(_)) = self.messages.try_send(Message::Text(text)) {
                self.left_out.fetch_add(untold, Ordering::Relaxed);
                return;
            }
            untold -= lines;
        }
    }
}

fn write(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            // Nobody may be there to read it.
            Message::Text(text) => drop(io::stderr().write_all(&text)),
            // Nobody waits any more.
            Message::Written(written) => drop(written.send(())),
        }
    }
}

/// Say this line on stderr, soon.
pub(crate) fn say(line: impl Into<String>) {
    let mut line: String = line.into();
    line.push('\n');
    if let Some(writer) = Writer::get() {
        writer.send(line.into_bytes());
    }
}

/// Say this line on stderr, and nothing more: other threads may not know yet that it is over.
pub(crate) fn say_last(line: impl Into<String>) {
    say(line);
    if let Some(writer) = Writer::get() {
        writer.is_over.store(true, Ordering::Relaxed);
    }
}

/// Waits until all is written that was said. Whoever reads may take as long as they like.
pub(crate) async fn all_said() {
    // Not here: this waits for room.
    let waiting = tokio::task::spawn_blocking(all_said_blocking);
    // It does not panic.
    let _ = waiting.await;
}

/// As [`all_said`], where there is no runtime.
pub(crate) fn all_said_blocking() {
    let Some(writer) = Writer::get() else { return };
    let (written, wait) = oneshot::channel();
    // Both fail only if the thread is gone.
    if writer.messages.send(Message::Written(written)).is_ok() {
        let _ = wait.blocking_recv();
    }
}

/// What [`tracing_subscriber`] writes to: an event at a time.
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

/// Print this text on stdout, on a thread that may block. A reader that has gone has had enough, which is no
/// failure.
pub(crate) async fn print(text: String) -> Result<(), Failure> {
    let printing = tokio::task::spawn_blocking(move || {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
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
        // There is room for the note, but not for the line.
        say("5");
        assert_eq!(take(), "2");
        assert_eq!(take(), "(2 lines left out, for nobody read them)\n");
        say("6");
        assert_eq!(take(), "(1 lines left out, for nobody read them)\n");
        assert_eq!(take(), "6");
    }
}
