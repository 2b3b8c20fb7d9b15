//! Parses sizes and durations of a command line: `64K`, `1G`, `250ms`, `30s`.

use std::time::Duration;

/// Reads a number of bytes with an optional suffix `K`, `M` or `G` (powers of 1024).
///
/// # Errors
///
/// If the text is anything else, or the number is too large for 64 bits.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().next_back() {
        Some((end, 'K')) => (&text[..end], 1 << 10),
        Some((end, 'M')) => (&text[..end], 1 << 20),
        Some((end, 'G')) => (&text[..end], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a size such as 4096, 64K, 10M or 1G"))?;
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("{text:?} is too large"))
}

/// Reads a duration in whole seconds (`30s`) or milliseconds (`250ms`).
///
/// # Errors
///
/// If the text is anything else.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = if let Some(digits) = text.strip_suffix("ms") {
        digits.parse().map(Duration::from_millis)
    } else if let Some(digits) = text.strip_suffix('s') {
        digits.parse().map(Duration::from_secs)
    } else {
        return Err(format!("{text:?} needs a unit, such as 250ms or 30s"));
    };
    parsed.map_err(|_| format!("{text:?} is not a duration such as 250ms or 30s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_a_binary_suffix() {
        assert_eq!(parse_size("17"), Ok(17));
        assert_eq!(parse_size("64K"), Ok(64 * 1024));
        assert_eq!(parse_size("3G"), Ok(3 << 30));
    }

    #[test]
    fn sizes_refuse_anything_else() {
        for text in ["", "K", "-1", "1.5M", "10 M", "1T", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        for text in ["", "30", "s", "1m", "1.5s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
