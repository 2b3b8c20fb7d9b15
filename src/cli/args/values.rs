//! Numbers, durations and rates on the command line.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use longshore::{Platform, Platforms};

/// Parses a number of things, of which at least one is needed.
pub(super) fn count(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse();
    number.map_err(|_| format!("{text:?} is not a number from 1"))
}

/// Parses a number of things, perhaps none.
pub(super) fn count_or_none(text: &str) -> Result<u32, String> {
    let number = text.parse();
    number.map_err(|_| format!("{text:?} is not a number from 0 to {}", u32::MAX))
}

/// Parses a platform, or `all`.
pub(in crate::cli) fn platforms(text: &str) -> Result<Platforms, String> {
    if text != "all" && text.eq_ignore_ascii_case("all") {
        return Err("did you mean all?".into());
    }
    check_single(text)?;
    text.parse::<Platforms>().map_err(|wrong| wrong.to_string())
}

/// Parses a single platform.
pub(super) fn platform(text: &str) -> Result<Platform, String> {
    if text.eq_ignore_ascii_case("all") {
        return Err(
            "a single platform is needed: OS/ARCH[/VARIANT]; longshore digest without --platform prints the digest of \
             the index"
                .into(),
        );
    }
    check_single(text)?;
    text.parse::<Platform>().map_err(|wrong| wrong.to_string())
}

fn check_single(text: &str) -> Result<(), String> {
    if text.contains(',') {
        return Err(
            "give one platform; for several, write a list for pull --from: a line for each, with platform= and name="
                .into(),
        );
    }
    Ok(())
}

/// Parses a duration like [`duration`] that is not 0.
pub(super) fn time_limit(text: &str) -> Result<Duration, String> {
    let limit = duration(text)?;
    if limit.is_zero() {
        return Err("this leaves no time; without the option, there is no limit".into());
    }
    Ok(limit)
}

/// Parses a duration: `3`, `3s`, `2m`, `1h`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let wrong = || format!("{text:?} is not a duration: 90, 90s, 2m, 1h or 500ms");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = |factor| {
        number
            .checked_mul(factor)
            .map(Duration::from_secs)
            .ok_or_else(wrong)
    };
    match unit {
        "" | "s" => seconds(1),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => seconds(60),
        "h" => seconds(60 * 60),
        _ => Err(wrong()),
    }
}

/// Parses a rate like [`rate`], or 0.
pub(super) fn rate_or_none(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        _ => rate(text).map(NonZeroU64::get),
    }
}

/// Parses a rate: `500K`, `10M`, `1G`, or bytes.
pub(super) fn rate(text: &str) -> Result<NonZeroU64, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "" => Some(1),
        "K" | "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        _ => None,
    };
    let bytes = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| format!("{text:?} is not a rate: bytes per second, such as 500K, 10M or 1G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let table = [
            ("1", Some(1)),
            ("64", Some(64)),
            ("0", None),
            ("-1", None),
            ("x", None),
        ];
        for (text, expected) in table {
            assert_eq!(count(text).ok().map(NonZeroUsize::get), expected, "{text}");
        }
    }

    #[test]
    fn a_wrong_value_says_what_is_right() {
        let wrong = |parsed: Result<(), String>| parsed.expect_err("a wrong value");
        let message = wrong(count_or_none("lots").map(drop));
        assert_eq!(message, "\"lots\" is not a number from 0 to 4294967295");
        assert!(wrong(time_limit("0s").map(drop)).contains("no limit"));
        assert_eq!(wrong(platforms("ALL").map(drop)), "did you mean all?");
        for parsed in [
            platforms("linux/arm64,linux/amd64").map(drop),
            platform("linux/arm64,linux/amd64").map(drop),
        ] {
            assert!(wrong(parsed).contains("platform= and name="));
        }
        assert!(wrong(platform("all").map(drop)).contains("longshore digest without"));
        assert_eq!(platforms("all"), Ok(Platforms::All));
        assert!(platforms("linux/arm64").is_ok() && platform("linux/arm64").is_ok());
        assert_eq!(count_or_none("0"), Ok(0));
    }

    #[test]
    fn rates() {
        let table = [
            ("1", Some(1)),
            ("500K", Some(500_000)),
            ("10M", Some(10_000_000)),
            ("0", None),
            ("M", None),
            ("1.5M", None),
            ("99999999999999G", None),
        ];
        for (text, expected) in table {
            assert_eq!(rate(text).ok().map(NonZeroU64::get), expected, "{text}");
        }
    }

    #[test]
    fn durations() {
        let table = [
            ("3", Some(Duration::from_secs(3))),
            ("3s", Some(Duration::from_secs(3))),
            ("2m", Some(Duration::from_secs(120))),
            ("1h", Some(Duration::from_secs(3600))),
            ("500ms", Some(Duration::from_millis(500))),
            ("0", Some(Duration::ZERO)),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1.5s", None),
            ("3 s", None),
            ("99999999999999999999", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }
}
