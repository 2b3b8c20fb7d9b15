//! Reads secrets without leaving copies of them in memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;
use super::format::without_byte_order_mark;

/// The maximum length of a password or a token line, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The first line of the file that an option names, without its line break.
pub(crate) fn first_line_of(option: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let wrong = |what: String| {
        // A password that was given in place of a file is not repeated.
        let path = match path.to_str() {
            Some(text) if text.contains(':') && !path.exists() => String::new(),
            _ => format!(" {}", path.display()),
        };
        Failure::usage(format!("{option}{path}: {what}"))
    };
    let line = File::open(path).and_then(first_line).map_err(|error| {
        let text = path.to_string_lossy();
        let advice = match &*text {
            "-" if option == "--creds-file" => "; --creds - reads a line of stdin",
            _ if text.contains(':') => "; the option needs the name of a file, not the secret",
            _ => "",
        };
        wrong(format!("{error}{advice}"))
    })?;
    if line.trim().is_empty() {
        return Err(wrong("its first line is empty".into()));
    }
    if line.trim_start().starts_with('{') {
        return Err(wrong(
            "it looks like an auth file; use --authfile for one".into(),
        ));
    }
    Ok(line)
}

/// The next line of stdin, without its line break. What follows is left unread. The standard library's buffer
/// is not used, because it would keep a copy.
pub(crate) fn line_from_stdin() -> Result<Zeroizing<String>, Failure> {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let read = stdin.map(File::from).and_then(first_line);
    read.map_err(|e| Failure::usage(format!("can't read credentials from stdin: {e}")))
}

fn first_line(mut from: impl Read) -> io::Result<Zeroizing<String>> {
    // The vector gets its whole capacity at once, because a vector that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    let mut byte = [0];
    while read_one(&mut from, &mut byte)? && byte != *b"\n" {
        if line.len() == MAX_BYTES {
            let reason = format!("its first line has more than {MAX_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let text = std::str::from_utf8(&line).map_err(io::Error::other)?;
    Ok(Zeroizing::new(without_byte_order_mark(text).to_owned()))
}

/// Reads one byte. Returns `false` at the end.
fn read_one(from: &mut impl Read, byte: &mut [u8; 1]) -> io::Result<bool> {
    loop {
        match from.read(byte) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return Ok(read? == 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_lines_end() {
        let table = [
            ("a:b\nc", "a:b"),
            ("a:b\r\nc", "a:b"),
            ("a:b", "a:b"),
            ("", ""),
            ("\u{feff}a:b\r\n", "a:b"),
            ("a:\u{feff}b", "a:\u{feff}b"),
        ];
        for (text, line) in table {
            assert_eq!(*first_line(text.as_bytes()).expect("text"), line);
        }
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        first_line(io::repeat(b'a')).expect_err("too long");
    }
}
