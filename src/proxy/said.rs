//! The stderr of a child: its lines, its end, and the first line of a crash. This module does no I/O.

use std::collections::VecDeque;
use std::mem;

use crate::words::printable_lines;

/// The size of the end of stderr that is kept for messages, in bytes.
const KEPT_BYTES: usize = 64 * 1024;

/// The maximum length of a line, in bytes. A longer line is returned in pieces, which end at the end of a word,
/// because secrets are removed from whole URLs.
const LINE_BYTES: usize = 4096;

/// The beginnings of the line with which a Go program crashes. The text after that line (the stacks of all threads,
/// and the registers) can be longer than the text that is kept, so the line is kept separately.
const CRASHES: [&[u8]; 3] = [b"panic: ", b"fatal error: ", b"runtime: "];

/// The text that a child writes to stderr, as it comes.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The end of the text.
    kept: VecDeque<u8>,
    /// Whether text before `kept` was dropped. `kept` may then start in the middle of a word.
    is_cut: bool,
    /// The last line, which has not ended.
    line: Vec<u8>,
    /// The line with which the program crashed.
    crash: Option<String>,
}

/// The cleaned end of stderr, and the line of a crash, when the child has exited.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    pub(super) stderr: String,
    pub(super) crash: Option<String>,
}

impl Said {
    /// Takes bytes that the child wrote. Returns the lines that end in them, cleaned.
    pub(super) fn take(&mut self, bytes: &[u8]) -> String {
        self.kept.extend(bytes);
        let excess = self.kept.len().saturating_sub(KEPT_BYTES);
        self.kept.drain(..excess);
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

    /// Ends the text. Returns the last line, which has not ended, and the last words.
    pub(super) fn end(mut self) -> (String, LastWords) {
        let line = self.end_line();
        let whole = if self.is_cut {
            let first = self.kept.iter().take(LINE_BYTES);
            let space = first.into_iter().position(u8::is_ascii_whitespace);
            self.kept.split_off(space.map_or(0, |space| space + 1))
        } else {
            self.kept
        };
        let stderr = printable_lines(&String::from_utf8_lossy(&Vec::from(whole)));
        let crash = self.crash;
        (line, LastWords { stderr, crash })
    }
}

/// The lines of a child that are passed on. If there is a label, each line begins with it.
#[derive(Debug)]
pub(super) struct Labelled {
    label: String,
    /// Whether the last line has not ended.
    is_in_line: bool,
}

impl Labelled {
    pub(super) fn new(label: String) -> Self {
        Self {
            label,
            is_in_line: false,
        }
    }

    /// Returns this text, which [`Said::take`] has returned, with the label before each line.
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

    /// Returns the last text, like [`label`](Self::label). A line that has not ended is ended, so that it does not run into
    /// a line of another child.
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
    fn each_line_begins_with_the_label_whatever_the_pieces() {
        let mut labelled = Labelled::new("proxy 3: ".into());
        let texts = ["a\nb\n", "c", "d\n", ""].map(|text| labelled.label(text));
        assert_eq!(texts.concat(), "proxy 3: a\nproxy 3: b\nproxy 3: cd\n");
        assert_eq!(labelled.last(""), "");
        assert_eq!(labelled.last("e"), "proxy 3: e\n");
        let mut plain = Labelled::new(String::new());
        assert_eq!(plain.label("a\nb") + &plain.last("c"), "a\nbc");
    }

    #[test]
    fn lines_are_given_when_they_end_whatever_the_pieces() {
        let mut said = Said::default();
        assert_eq!(said.take(b"a\x1bb"), "");
        assert_eq!(
            said.take("c\n\u{e9}".as_bytes().split_last().expect("some").1),
            "a\u{fffd}bc\n"
        );
        assert_eq!(
            said.take(&["\u{e9}".as_bytes()[1], b'\n', b'd']),
            "\u{e9}\n"
        );
        let (line, last) = said.end();
        assert_eq!(line, "d");
        assert_eq!(last.stderr, "a\u{fffd}bc\n\u{e9}\nd");
        assert_eq!(last.crash, None);
    }

    #[test]
    fn a_line_without_end_is_taken_in_pieces() {
        let mut said = Said::default();
        let given: usize = (0..10).map(|_| said.take(&[b'x'; 1000]).len()).sum();
        assert_eq!(given, 2 * LINE_BYTES);
    }

    #[test]
    fn a_password_is_cut_from_a_url_wherever_pieces_end() {
        let url = "http://user:secret@proxy/";
        for before in LINE_BYTES - 2 * url.len()..LINE_BYTES + 2 {
            let mut said = Said::default();
            let text = format!("{} {url} {}", "x".repeat(before), "y".repeat(LINE_BYTES));
            let mut shown = said.take(text.as_bytes());
            shown.push_str(&said.end().0);
            assert!(
                !shown.contains("secret") && shown.contains("@proxy"),
                "{before}"
            );
        }
        for after in KEPT_BYTES - 2 * url.len()..KEPT_BYTES {
            let mut said = Said::default();
            said.take(format!("{url} {}", "y ".repeat(after / 2)).as_bytes());
            let (_, last) = said.end();
            assert!(!last.stderr.contains("cret"), "{after}");
        }
    }

    #[test]
    fn the_first_line_of_a_crash_is_kept_however_much_follows() {
        for crash in [
            "panic: runtime error: index out of range",
            "fatal error: out of memory",
        ] {
            let mut said = Said::default();
            said.take(b"starting\n");
            said.take(crash.as_bytes());
            said.take(b"\n\ngoroutine 1 [running]:\n");
            for register in 0..20_000 {
                said.take(format!("r{register}    0x0\n").as_bytes());
            }
            said.take(b"panic: another one\n");
            let (_, last) = said.end();
            assert_eq!(last.crash.as_deref(), Some(crash));
            assert!(!last.stderr.contains(crash) && last.stderr.len() <= KEPT_BYTES);
        }
    }
}
