//! Names that resemble what was typed.

use strsim::damerau_levenshtein;

/// What a name begins with that means the opposite of the rest.
const NEGATIONS: [&str; 6] = [
    "no-",
    "skip-",
    "disable-",
    "without-",
    "insecure-",
    "ignore-",
];

/// The name that was probably meant: one with about one wrong letter in four, or the only one that begins like this.
/// An option that does the opposite is never meant.
pub(super) fn similar<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let known: Vec<&str> = known.into_iter().collect();
    let most = (typed.chars().count() / 4).max(1);
    let distances = known
        .iter()
        .map(|name| (damerau_levenshtein(typed, name), *name));
    let near = distances
        .filter(|(distance, name)| *distance <= most && !is_opposite(typed, name))
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, name)) = near {
        return Some(name);
    }
    let mut longer = known.iter().filter(|name| name.starts_with(typed));
    match (longer.next(), longer.next()) {
        (Some(only), None) if typed.len() >= 4 => Some(only),
        _ => None,
    }
}

/// Whether one of the names is nearer to the other one without its negation.
fn is_opposite(typed: &str, name: &str) -> bool {
    let distance = damerau_levenshtein(typed, name);
    let is_nearer = |negated: &str, other: &str| {
        let mut positive = NEGATIONS
            .iter()
            .filter_map(|negation| negated.strip_prefix(negation));
        positive.any(|positive| damerau_levenshtein(positive, other) < distance)
    };
    is_nearer(typed, name) || is_nearer(name, typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_probably_meant_is_similar() {
        let options = [
            "authfile",
            "cert-dir",
            "creds",
            "creds-file",
            "events",
            "insecure-policy",
            "no-creds",
            "policy",
            "proxies",
            "require-policy",
            "retries",
            "stall-timeout",
            "strict",
            "timeline",
            "timeline-axis",
            "tls-verify",
        ];
        let table = [
            ("retrie", Some("retries")),
            ("tls-verfy", Some("tls-verify")),
            ("nocreds", Some("no-creds")),
            ("isnecure-policy", Some("insecure-policy")),
            ("timelin", Some("timeline")),
            ("auth", Some("authfile")),
            ("cert", Some("cert-dir")),
            ("stall", Some("stall-timeout")),
            ("time", None),
            ("credentials", None),
            ("image-list", None),
            ("ignore-policy", None),
            ("insecure-creds", None),
            ("no-clobber", None),
            ("no-policy", None),
            ("no-tls-verify", None),
            ("output-dir", None),
            ("proxy", None),
            ("signature-policy", None),
            ("skip-tls-verify", None),
            ("skip-verify", None),
            ("threads", None),
            ("trace", None),
        ];
        for (typed, expected) in table {
            assert_eq!(similar(typed, options), expected, "{typed}");
        }
        let commands = ["pull", "inspect", "digest", "export", "verify", "prune"];
        let commands = commands.into_iter().chain(["list-tags", "man", "doctor"]);
        let table = [
            ("pul", Some("pull")),
            ("inspekt", Some("inspect")),
            ("exprot", Some("export")),
            ("images", None),
            ("import", None),
            ("repos", None),
            ("run", None),
            ("status", None),
            ("version", None),
        ];
        for (typed, expected) in table {
            assert_eq!(similar(typed, commands.clone()), expected, "{typed}");
        }
    }
}
