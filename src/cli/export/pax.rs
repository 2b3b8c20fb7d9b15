//! The records of an extended header of pax (POSIX, `pax`): a length, a key and a value each. Pure.
//!
//! The crate `tar` ends a record at a line break. But the values of extended attributes can contain line breaks.

use std::io;

use super::layer::invalid;

/// A record: its key and its value.
pub(super) type Record<'a> = (&'a str, &'a [u8]);

/// Returns the records of an extended header, in order.
pub(super) fn records(mut bytes: &[u8]) -> io::Result<Vec<Record<'_>>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) =
            first(bytes).ok_or_else(|| invalid("an extended header is damaged"))?;
        records.push(record);
        bytes = rest;
    }
    Ok(records)
}

/// Splits the first record off: `LENGTH KEY=VALUE\n`. The length is that of the whole record.
fn first(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = std::str::from_utf8(&bytes[..space]).ok()?;
    let length: usize = length.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = std::str::from_utf8(&record[..equals]).ok()?;
    Some(((key, &record[equals + 1..]), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_values_of_any_bytes() {
        let bytes = b"12 path=a/b\n22 SCHILY.xattr.x=\n\x00=\n8 size=\n";
        let found = records(bytes).expect("records");
        let expected: [Record; 3] = [
            ("path", b"a/b"),
            ("SCHILY.xattr.x", b"\n\x00="),
            ("size", b""),
        ];
        assert_eq!(found, expected);
        assert_eq!(records(b"").expect("none"), []);
    }

    #[test]
    fn damaged_records_are_errors() {
        for damaged in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b",
            b"7 a=b\n",
            b"6 ab c\n",
            b"99999999999999999999999 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"6 \xff=b\n",
        ] {
            records(damaged).expect_err("damaged");
        }
    }
}
