//! The stderr of a child: its lines, its end, and the first line of a crash. This module does no I/O.

use std::collections::VecDeque;
use std::mem;

use crate::words::printable_lines;

/// The size of the end of stderr that is kept for messages, in bytes.
const TAIL_BYTES: usize = 64 * 1024;

/// The maximum length of a line, in bytes. A longer line is returned in pieces, which end at the end of a word,
/// because secrets are removed from whole URLs.
const LINE_BYTES: usize = 4096;

/// The beginnings of the line with which a Go program crashes. The text after that line (the stacks of all threads,
/// and the registers) can be longer than the text that is kept, so the line is kept separately.
const CRASHES: [&[u8]; 3] = [b"panic: ", b"fatal error: ", b"runtime: "];

/// The text that a child writes to stderr, as it comes.
#[derive(Debug, Default)]
pub(super) struct StderrTail {
    /// The end of the text.
    tail: VecDeque<u8>,
    /// Whether text before `tail` was dropped. `tail` may then start in the middle of a word.
    is_cut: bool,
    /// The last line, which has not ended.
    line: Vec<u8>,
    /// The line with which the program crashed.
    crash: Option<String>,
}

/// The cleaned end of stderr, and the line of a crash, when the child has exited.
#[derive(Debug, Default)]
pub(super) struct StderrEnd {
    pub(super) stderr: String,
    pub(super) crash: Option<String>,
}

impl StderrTail {
    /// Takes bytes that the child wrote. Returns the lines that end in them, cleaned.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        self.is_cut |= excess > 0;
        let mut lines = String::new();
        for &byte in bytes {
            self.line.push(byte);
            if byte == b'\n' {
                lines.push_str(&self.end_line());
            } else if self.line.len() == LINE_BYTES {
                let word = self.line.iter().rposition(u8::is_ascii_whitespace);
                let word = self
                    .line
                    .split_off(word.map_or(LINE_BYTES, |space| space + 1));
                lines.push_str(&self.end_line());
                self.line = word;
            }
        }
        lines
    }

    fn end_line(&mut self) -> String {
        let line = mem::take(&mut self.line);
        let shown = printable_lines(&String::from_utf8_lossy(&line));
        if self.crash.is_none() && CRASHES.iter().any(|crash| line.starts_with(crash)) {
            self.crash = Some(shown.trim_end().to_owned());
        }
        shown
    }

    /// Ends the text. Returns the last line, which has not ended, and the end of stderr with the line of a crash.
    pub(super) fn end(mut self) -> (String, StderrEnd) {
        let line = self.end_line();
        let whole = if self.is_cut {
            let first = self.tail.iter().take(LINE_BYTES);
            let space = first.into_iter().position(u8::is_ascii_whitespace);
            self.tail.split_off(space.map_or(0, |space| space + 1))
        } else {
            self.tail
        };
        let stderr = printable_lines(&String::from_utf8_lossy(&Vec::from(whole)));
        let crash = self.crash;
        (line, StderrEnd { stderr, crash })
    }
}

/// The lines of a child that are passed on. If there is a label, each line begins with it.
#[derive(Debug)]
pub(super) struct LineLabeller {
    label: String,
    /// Whether the last line has not ended.
    is_in_line: bool,
}

impl LineLabeller {
    pub(super) fn new(label: String) -> Self {
        Self {
            label,
            is_in_line: false,
        }
    }

    /// Returns this text, which [`StderrTail::push`] has returned, with the label before each line.
    pub(super) fn label(&mut self, text: &str) -> String {
        let mut labelled = String::with_capacity(text.len() + self.label.len());
        for line in text.split_inclusive('\n') {
            if !self.is_in_line {
                labelled.push_str(&self.label);
            }
            labelled.push_str(line);
            self.is_in_line = !line.ends_with('\n');
        }
        labelled
    }

    /// Returns the last text, like [`label`](Self::label). If there is a label, a line that has not ended is ended, so
    /// that it does not run into a line of another child.
    pub(super) fn last(&mut self, text: &str) -> String {
        let mut last = self.label(text);
        if self.is_in_line && !self.label.is_empty() {
            last.push('\n');
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_begins_with_the_label() {
        let mut labeller = LineLabeller::new("proxy 3: ".into());
        let texts = ["a\nb\n", "c", "d\n", ""].map(|text| labeller.label(text));
        assert_eq!(texts.concat(), "proxy 3: a\nproxy 3: b\nproxy 3: cd\n");
        assert_eq!(labeller.last(""), "");
        assert_eq!(labeller.last("e"), "proxy 3: e\n");
        let mut plain = LineLabeller::new(String::new());
        assert_eq!(plain.label("a\nb") + &plain.last("c"), "a\nbc");
    }

    #[test]
    fn lines_are_returned_when_they_end() {
        let mut stderr = StderrTail::default();
        assert_eq!(stderr.push(b"a\x1bb"), "");
        assert_eq!(
            stderr.push("c\n\u{e9}".as_bytes().split_last().expect("some").1),
            "a\u{fffd}bc\n"
        );
        assert_eq!(
            stderr.push(&["\u{e9}".as_bytes()[1], b'\n', b'd']),
            "\u{e9}\n"
        );
        let (line, last) = stderr.end();
        assert_eq!(line, "d");
        assert_eq!(last.stderr, "a\u{fffd}bc\n\u{e9}\nd");
        assert_eq!(last.crash, None);
    }

    #[test]
    fn a_long_line_is_returned_in_pieces() {
        let mut stderr = StderrTail::default();
        let given: usize = (0..10).map(|_| stderr.push(&[b'x'; 1000]).len()).sum();
        assert_eq!(given, 2 * LINE_BYTES);
    }

    #[test]
    fn a_password_in_a_url_is_removed_at_any_position() {
        let url = "http://user:secret@proxy/";
        for before in LINE_BYTES - 2 * url.len()..LINE_BYTES + 2 {
            let mut stderr = StderrTail::default();
            let text = format!("{} {url} {}", "x".repeat(before), "y".repeat(LINE_BYTES));
            let mut shown = stderr.push(text.as_bytes());
            shown.push_str(&stderr.end().0);
            assert!(
                !shown.contains("secret") && shown.contains("@proxy"),
                "{before}"
            );
        }
        for after in TAIL_BYTES - 2 * url.len()..TAIL_BYTES {
            let mut stderr = StderrTail::default();
            stderr.push(format!("{url} {}", "y ".repeat(after / 2)).as_bytes());
            let (_, last) = stderr.end();
            assert!(!last.stderr.contains("cret"), "{after}");
        }
    }

    #[test]
    fn the_first_line_of_a_crash_is_kept() {
        for crash in [
            "panic: runtime error: index out of range",
            "fatal error: out of memory",
        ] {
            let mut stderr = StderrTail::default();
            stderr.push(b"starting\n");
            stderr.push(crash.as_bytes());
            stderr.push(b"\n\ngoroutine 1 [running]:\n");
            for register in 0..20_000 {
                stderr.push(format!("r{register}    0x0\n").as_bytes());
            }
            stderr.push(b"panic: another one\n");
            let (_, last) = stderr.end();
            assert_eq!(last.crash.as_deref(), Some(crash));
            assert!(!last.stderr.contains(crash) && last.stderr.len() <= TAIL_BYTES);
        }
    }
}
