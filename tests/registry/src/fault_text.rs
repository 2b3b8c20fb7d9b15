//! Parses faults from text: `TARGET:KIND`, or `TARGET:KIND*TIMES` to hit only this many requests.
//!
//! | target | hits |
//! |---|---|
//! | `any` | every request |
//! | `ping` | `/v2/` |
//! | `manifest` | every manifest and index |
//! | `blob` | every layer and configuration |
//! | `blob@DIGEST` | the blob with that digest |
//! | `blob#N` | the layer with that number, counting from 0 and each digest once |
//! | `config` | every configuration |
//!
//! | kind | does |
//! |---|---|
//! | `status=CODE[,retry-after=SECONDS]` | answers with an error instead |
//! | `rate=N[,retry-after=SECONDS]` | answers 429 to what comes on top of N requests a second |
//! | `redirect-loop` | redirects to the same place |
//! | `headers-never` | never answers |
//! | `ttfb=DURATION` | holds the headers back: `250ms`, `30s` |
//! | `stall=POINT` | stops sending and keeps the connection open |
//! | `gap=DURATION` | sends nothing for so long in the middle, and then goes on |
//! | `trickle=DURATION` | sends byte by byte, and waits so long after each |
//! | `cut=POINT` | closes the connection early |
//! | `reset=POINT` | resets the connection |
//! | `corrupt`, `corrupt=OFFSET` | flips a byte, by default the one in the middle |
//! | `longer=SIZE`, `shorter=SIZE` | sends more or fewer bytes, with a `Content-Length` that agrees |
//! | `chunked-longer=SIZE`, `chunked-shorter=SIZE` | the same without a `Content-Length` |
//! | `content-length=SIZE` | sends all of the body after a wrong `Content-Length` |
//! | `not-json` | sends a body that is not JSON |
//! | `big-manifest=SIZE` | fills the body up with spaces |
//!
//! A point in a body is `half`, `last` (before the last byte) or a number of bytes. A size may end
//! in `K`, `M` or `G`.

use std::str::FromStr;

use super::fault::{Fault, FaultKind, Point, Target};
use super::layout::is_digest;
use super::units::{parse_duration, parse_size};

/// The error for a text that describes no fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault {text:?}: {problem}")]
pub struct ParseFaultError {
    text: String,
    problem: String,
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_fault(text).map_err(|problem| ParseFaultError {
            text: text.to_owned(),
            problem,
        })
    }
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    // A digest has a colon of its own, but a kind never has one.
    let (target, rest) = text
        .rsplit_once(':')
        .ok_or("a fault is TARGET:KIND, such as blob:status=429")?;
    let (kind, times) = match rest.rsplit_once('*') {
        Some((kind, times)) => (kind, Some(parse_number(times)?)),
        None => (rest, None),
    };
    Ok(Fault {
        target: parse_target(target)?,
        kind: parse_kind(kind)?,
        times,
    })
}

fn parse_target(text: &str) -> Result<Target, String> {
    if let Some(digest) = text.strip_prefix("blob@") {
        return if is_digest(digest) {
            Ok(Target::BlobDigest(digest.to_owned()))
        } else {
            Err(format!("{digest:?} is not a digest"))
        };
    }
    if let Some(number) = text.strip_prefix("blob#") {
        return parse_number(number).map(Target::Layer);
    }
    match text {
        "any" => Ok(Target::Any),
        "ping" => Ok(Target::Ping),
        "manifest" => Ok(Target::Manifest),
        "blob" => Ok(Target::Blob),
        "config" => Ok(Target::Config),
        _ => Err(format!(
            "{text:?} is not a target: any, ping, manifest, blob, blob@DIGEST, blob#N or config"
        )),
    }
}

fn parse_kind(text: &str) -> Result<FaultKind, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match (name, value) {
        ("redirect-loop", None) => Ok(FaultKind::RedirectLoop),
        ("headers-never", None) => Ok(FaultKind::HeadersNever),
        ("not-json", None) => Ok(FaultKind::NotJson),
        ("corrupt", None) => Ok(FaultKind::Corrupt(None)),
        ("redirect-loop" | "headers-never" | "not-json", Some(_)) => {
            Err(format!("{name:?} takes no value"))
        }
        (_, Some(value)) => parse_kind_with_value(name, value),
        (_, None) => parse_kind_with_value(name, ""),
    }
}

fn parse_kind_with_value(name: &str, value: &str) -> Result<FaultKind, String> {
    Ok(match name {
        "status" => {
            let (code, retry_after) = parse_retry_after(value)?;
            let code = parse_status(code)?;
            FaultKind::Status { code, retry_after }
        }
        "rate" => {
            let (limit, retry_after) = parse_retry_after(value)?;
            let limit = parse_number(limit)?;
            FaultKind::Rate { limit, retry_after }
        }
        "ttfb" => FaultKind::LateHeaders(parse_duration(value)?),
        "stall" => FaultKind::Stall(parse_point(value)?),
        "gap" => FaultKind::Gap(parse_duration(value)?),
        "trickle" => FaultKind::Trickle(parse_duration(value)?),
        "cut" => FaultKind::Cut(parse_point(value)?),
        "reset" => FaultKind::Reset(parse_point(value)?),
        "corrupt" => FaultKind::Corrupt(Some(parse_size(value)?)),
        "longer" | "chunked-longer" => FaultKind::Longer {
            by: parse_size(value)?,
            chunked: name.starts_with("chunked"),
        },
        "shorter" | "chunked-shorter" => FaultKind::Shorter {
            by: parse_size(value)?,
            chunked: name.starts_with("chunked"),
        },
        "content-length" => FaultKind::ContentLength(parse_size(value)?),
        "big-manifest" => FaultKind::BigManifest(parse_size(value)?),
        _ => return Err(format!("{name:?} is not a kind of fault")),
    })
}

/// Splits `,retry-after=SECONDS` off the end of a value.
fn parse_retry_after(value: &str) -> Result<(&str, Option<u64>), String> {
    let Some((value, option)) = value.split_once(',') else {
        return Ok((value, None));
    };
    let seconds = option
        .strip_prefix("retry-after=")
        .ok_or_else(|| format!("{option:?} is not retry-after=SECONDS"))?;
    Ok((value, Some(parse_number(seconds)?)))
}

fn parse_status(text: &str) -> Result<u16, String> {
    match parse_number(text)? {
        code @ 400..=599 => Ok(code),
        code => Err(format!("status {code} is not an error")),
    }
}

fn parse_point(text: &str) -> Result<Point, String> {
    match text {
        "half" => Ok(Point::Half),
        "last" => Ok(Point::Last),
        _ => parse_size(text)
            .map(Point::Byte)
            .map_err(|_| format!("{text:?} is not a point: half, last or a number of bytes")),
    }
}

fn parse_number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number, or not one that fits here"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Fault {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn problem(text: &str) -> String {
        match text.parse::<Fault>() {
            Ok(fault) => panic!("{text:?} is {fault:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_target() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let named = format!("blob@{digest}:cut=half");
        assert_eq!(parse("any:not-json").target, Target::Any);
        assert_eq!(parse("ping:not-json").target, Target::Ping);
        assert_eq!(parse("manifest:not-json").target, Target::Manifest);
        assert_eq!(parse("blob:cut=half").target, Target::Blob);
        assert_eq!(parse("blob#3:cut=half").target, Target::Layer(3));
        assert_eq!(parse("config:cut=half").target, Target::Config);
        assert_eq!(parse(&named).target, Target::BlobDigest(digest));
    }

    #[test]
    fn kinds_of_errors() {
        let status = |code, retry_after| FaultKind::Status { code, retry_after };
        let rate = |limit, retry_after| FaultKind::Rate { limit, retry_after };
        assert_eq!(parse("blob:status=429").kind, status(429, None));
        let later = parse("blob:status=503,retry-after=7").kind;
        assert_eq!(later, status(503, Some(7)));
        assert_eq!(parse("blob:rate=5").kind, rate(5, None));
        let later = parse("blob:rate=5,retry-after=1").kind;
        assert_eq!(later, rate(5, Some(1)));
        assert_eq!(parse("any:redirect-loop").kind, FaultKind::RedirectLoop);
    }

    #[test]
    fn kinds_of_delays_and_ends() {
        let half_a_minute = FaultKind::LateHeaders(Duration::from_secs(30));
        assert_eq!(parse("any:headers-never").kind, FaultKind::HeadersNever);
        assert_eq!(parse("any:ttfb=30s").kind, half_a_minute);
        let second = FaultKind::Gap(Duration::from_secs(1));
        assert_eq!(parse("blob:gap=1s").kind, second);
        assert_eq!(parse("blob:stall=0").kind, FaultKind::Stall(Point::Byte(0)));
        assert_eq!(parse("blob:cut=half").kind, FaultKind::Cut(Point::Half));
        assert_eq!(parse("blob:reset=last").kind, FaultKind::Reset(Point::Last));
    }

    #[test]
    fn kinds_of_wrong_bodies() {
        let longer = |by, chunked| FaultKind::Longer { by, chunked };
        let shorter = |by, chunked| FaultKind::Shorter { by, chunked };
        assert_eq!(parse("blob:corrupt").kind, FaultKind::Corrupt(None));
        assert_eq!(parse("blob:corrupt=9").kind, FaultKind::Corrupt(Some(9)));
        assert_eq!(parse("blob:longer=1K").kind, longer(1024, false));
        assert_eq!(parse("blob:chunked-longer=1").kind, longer(1, true));
        assert_eq!(parse("blob:shorter=1").kind, shorter(1, false));
        assert_eq!(parse("blob:chunked-shorter=1").kind, shorter(1, true));
        let length = parse("blob:content-length=5").kind;
        assert_eq!(length, FaultKind::ContentLength(5));
        assert_eq!(parse("manifest:not-json").kind, FaultKind::NotJson);
        let big = parse("manifest:big-manifest=5M").kind;
        assert_eq!(big, FaultKind::BigManifest(5 << 20));
    }

    #[test]
    fn times_can_be_limited() {
        assert_eq!(parse("blob:cut=half").times, None);
        assert_eq!(parse("blob:cut=half*2").times, Some(2));
        let limited = parse("blob:status=429,retry-after=1*3");
        assert_eq!(limited.times, Some(3));
    }

    #[test]
    fn problems_are_named() {
        for (text, words) in [
            ("status=429", "TARGET:KIND"),
            ("blobs:status=429", "\"blobs\" is not a target"),
            ("blob@sha256:12:cut=0", "\"sha256:12\" is not a digest"),
            ("blob#x:cut=0", "\"x\" is not a number"),
            ("blob:explode", "\"explode\" is not a kind"),
            ("blob:status", "\"\" is not a number"),
            ("blob:status=200", "status 200 is not an error"),
            ("blob:status=429,later=1", "\"later=1\" is not retry-after"),
            ("blob:cut=third", "\"third\" is not a point"),
            ("blob:ttfb=30", "needs a unit"),
            ("blob:not-json=1", "takes no value"),
            ("blob:cut=half*x", "\"x\" is not a number"),
        ] {
            let problem = problem(text);
            assert!(problem.contains(words), "{problem}");
        }
    }
}
