//! The only thread that writes to stderr, which may block. It writes lines that stay, and below them a
//! picture of progress.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use terminal_size::{Height, Width, terminal_size_of};
use tokio::sync::oneshot;

use super::format::counted;
use super::screen::Screen;

/// How many lines may wait to be written. Further ones are dropped.
const LINES: usize = 10_000;

#[derive(Debug)]
pub(super) enum Message {
    Text(Vec<u8>),
    /// The last text. Nothing is written after it, except for another one of this kind.
    Last(Vec<u8>),
    /// The lines of a picture below all text.
    Picture(Vec<String>),
    /// A request to take the picture away, until [`Unhide`](Self::Unhide), and to confirm that.
    Hide(oneshot::Sender<()>),
    Unhide,
    /// A request to confirm that all earlier messages have been written.
    Flush(oneshot::Sender<()>),
}

/// The thread that writes to stderr, which may block.
#[derive(Debug)]
pub(super) struct Writer {
    messages: SyncSender<Message>,
    /// The number of lines that were dropped since the last note about them.
    dropped_lines: AtomicUsize,
    /// Whether the last message has been sent.
    is_last_sent: AtomicBool,
    /// Whether a picture was ever sent. It may be on the terminal until the thread has taken all messages, even if an
    /// empty picture was sent later.
    has_shown: AtomicBool,
    /// Whether a picture waits to be drawn.
    is_waiting: Arc<AtomicBool>,
}

impl Writer {
    /// The writer, which is started at the first call. `None` if the thread can't be started; nothing is
    /// written then.
    pub(super) fn get() -> Option<&'static Self> {
        static WRITER: OnceLock<Option<Writer>> = OnceLock::new();
        let start = || {
            let (messages, received) = sync_channel(LINES);
            let thread = thread::Builder::new().name("longshore-stderr".into());
            let writer = Self::of(messages);
            let is_waiting = writer.is_waiting.clone();
            thread.spawn(move || write(&received, &is_waiting)).ok()?;
            Some(writer)
        };
        WRITER.get_or_init(start).as_ref()
    }

    fn of(messages: SyncSender<Message>) -> Self {
        Self {
            messages,
            dropped_lines: AtomicUsize::new(0),
            is_last_sent: AtomicBool::new(false),
            has_shown: AtomicBool::new(false),
            is_waiting: Arc::default(),
        }
    }

    /// Sends a text. It is dropped if the queue is full.
    pub(super) fn send(&self, text: Vec<u8>) {
        if self.is_last_sent.load(Ordering::Relaxed) {
            return;
        }
        let dropped_lines = self.dropped_lines.swap(0, Ordering::Relaxed);
        let messages = [(note(dropped_lines), dropped_lines), (text, 1)];
        // How many lines will count as dropped if the next message does not fit.
        let mut unsent = dropped_lines + 1;
        for (text, lines) in messages.into_iter().filter(|(_, lines)| *lines > 0) {
            if let Err(TrySendError::Full(_)) = self.messages.try_send(Message::Text(text)) {
                self.dropped_lines.fetch_add(unsent, Ordering::Relaxed);
                return;
            }
            unsent -= lines;
        }
    }

    /// Sends a text, and waits while the queue is full. Blocks.
    pub(super) fn send_blocking(&self, text: Vec<u8>) {
        if !self.is_last_sent.load(Ordering::Relaxed) {
            self.report_dropped_lines();
            self.send_and_wait(Message::Text(text));
        }
    }

    /// Writes how many lines were dropped, if any, and waits while the queue is full. Blocks.
    pub(super) fn report_dropped_lines(&self) {
        let dropped_lines = self.dropped_lines.swap(0, Ordering::Relaxed);
        if dropped_lines > 0 {
            self.send_and_wait(Message::Text(note(dropped_lines)));
        }
    }

    /// Sends the last text. A second signal sends another one.
    pub(super) fn send_last(&self, text: Vec<u8>) {
        self.is_last_sent.store(true, Ordering::Relaxed);
        // If the queue is full, the reader is too slow to see it.
        let _ = self.messages.try_send(Message::Last(text));
    }

    /// Sends a picture. It is left out if the last one is still to be drawn. An empty picture is never left out.
    pub(super) fn show(&self, lines: Vec<String>) {
        if self.is_last_sent.load(Ordering::Relaxed) {
            return;
        }
        if lines.is_empty() {
            self.send_and_wait(Message::Picture(lines));
            return;
        }
        self.has_shown.store(true, Ordering::Relaxed);
        if !self.is_waiting.swap(true, Ordering::Relaxed)
            && self.messages.try_send(Message::Picture(lines)).is_err()
        {
            self.is_waiting.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a picture may be on the terminal.
    pub(super) fn has_shown(&self) -> bool {
        self.has_shown.load(Ordering::Relaxed)
    }

    /// Sends a message, and waits while the queue is full. Returns whether the thread is still there. Blocks.
    pub(super) fn send_and_wait(&self, message: Message) -> bool {
        self.messages.send(message).is_ok()
    }
}

fn note(dropped_lines: usize) -> Vec<u8> {
    let lines = counted(dropped_lines, "line");
    format!("({lines} left out, because stderr was not read)\n").into_bytes()
}

fn write(messages: &Receiver<Message>, is_waiting: &AtomicBool) {
    let mut canvas = Canvas::default();
    for message in messages {
        match message {
            Message::Text(text) => canvas.write(&text),
            Message::Last(text) => {
                canvas.clear();
                put(&text);
                canvas.is_last_written = true;
            }
            Message::Picture(lines) => {
                is_waiting.store(false, Ordering::Relaxed);
                canvas.draw(lines);
            }
            // The receivers may be gone.
            Message::Hide(hidden) => {
                canvas.hide();
                let _ = hidden.send(());
            }
            Message::Unhide => canvas.unhide(),
            Message::Flush(written) => {
                let _ = written.send(());
            }
        }
    }
}

/// stderr, with the picture that is at its end if it is a terminal.
#[derive(Debug, Default)]
struct Canvas {
    screen: Screen,
    is_hidden: bool,
    is_last_written: bool,
}

impl Canvas {
    fn write(&mut self, text: &[u8]) {
        if self.is_last_written {
            return;
        }
        let mut bytes = self.erase().into_bytes();
        bytes.extend(text);
        if !self.is_hidden {
            bytes.extend(self.screen.redraw().into_bytes());
        }
        put(&bytes);
    }

    fn draw(&mut self, lines: Vec<String>) {
        if self.is_last_written {
            return;
        }
        if self.is_hidden {
            return self.screen.set(lines);
        }
        let erased = self.erase();
        let drawn = self.screen.draw(lines);
        put((erased + &drawn).as_bytes());
    }

    fn clear(&mut self) {
        put(self.erase().as_bytes());
        self.screen.clear();
    }

    fn hide(&mut self) {
        self.is_hidden = true;
        put(self.erase().as_bytes());
    }

    fn unhide(&mut self) {
        let was_hidden = std::mem::take(&mut self.is_hidden);
        if was_hidden && !self.is_last_written {
            put(self.screen.redraw().as_bytes());
        }
    }

    fn erase(&mut self) -> String {
        let size = terminal_size_of(io::stderr());
        let (columns, rows) =
            size.map_or((80, 24), |(Width(columns), Height(rows))| (columns, rows));
        self.screen.erase(columns.into(), rows.into())
    }
}

fn put(bytes: &[u8]) {
    // stderr may be closed.
    let _ = io::stderr().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dropped_line_is_counted_once() {
        let (messages, received) = sync_channel(2);
        let writer = Writer::of(messages);
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

    #[test]
    fn pictures_that_come_too_fast_are_left_out() {
        let (messages, received) = sync_channel(10);
        let writer = Writer::of(messages);
        for picture in ["1", "2", "3"] {
            writer.show(vec![picture.into()]);
        }
        assert!(matches!(received.try_recv(), Ok(Message::Picture(lines)) if lines == ["1"]));
        assert!(received.try_recv().is_err());
        assert!(writer.has_shown());
        writer.show(Vec::new());
        // Until the thread takes the message, the last picture is still there.
        assert!(writer.has_shown());
        assert!(matches!(received.try_recv(), Ok(Message::Picture(lines)) if lines.is_empty()));
        writer.send_last(b"end".to_vec());
        writer.show(vec!["4".into()]);
        writer.send(b"late".to_vec());
        assert!(matches!(received.try_recv(), Ok(Message::Last(text)) if text == b"end"));
        assert!(received.try_recv().is_err());
    }
}
