//! Reads lists of images, and selects a part of them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use longshore::{ImageRequest, OciLayout, Platforms};
use sha2::{Digest, Sha256};

use super::args::{image_reference, platforms};
use super::failure::Failure;
use super::format::without_byte_order_mark;
use super::name::RegistryName;

/// The maximum size of a list, in bytes. This suffices for some hundred thousand images.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// Reads a list; `-` is stdin.
pub(crate) fn read(path: &Path) -> Result<Vec<ImageRequest>, Failure> {
    let wrong = |what: &str| Failure::usage(format!("the list {}: {what}", path.display()));
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_LIST_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| wrong(&format!("can't read it: {error}")))?;
    if bytes.len() as u64 > MAX_LIST_BYTES {
        return Err(wrong("it has more than 64 MiB; split it"));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8 text"))?;
    let requests = parse(&text).map_err(|what| wrong(&what))?;
    if requests.is_empty() {
        return Err(wrong("it names no image"));
    }
    Ok(requests)
}

/// Parses a list. A line names one image: `REFERENCE [platform=OS/ARCH[/VARIANT]|all] [name=NAME]`. `#`
/// begins a comment.
fn parse(text: &str) -> Result<Vec<ImageRequest>, String> {
    let mut requests = Vec::new();
    let text = without_byte_order_mark(text);
    for (number, line) in text.lines().enumerate() {
        let words = line
            .split_whitespace()
            .take_while(|word| !word.starts_with('#'));
        let words: Vec<&str> = words.collect();
        if let [reference, options @ ..] = words.as_slice() {
            let request = request(reference, options);
            requests.push(request.map_err(|what| format!("line {}: {what}", number + 1))?);
        }
    }
    Ok(requests)
}

fn request(reference: &str, options: &[&str]) -> Result<ImageRequest, String> {
    let mut request = ImageRequest::new(image_reference(reference)?);
    let mut keys = HashSet::new();
    for option in options {
        let pair = option.split_once('=');
        if let Some((key, _)) = pair
            && !keys.insert(key)
        {
            return Err(format!("{key}= is given twice; give it once a line"));
        }
        request = match pair {
            Some(("platform", platform)) => request.platforms(platforms(platform)?),
            Some(("name", name)) if OciLayout::can_name(name) => request.name(name),
            Some(("name", name)) => return Err(cant_name(name)),
            _ => return Err(format!("{option:?} is neither platform=... nor name=...")),
        };
    }
    Ok(request)
}

/// What a name in a layout is ([`OciLayout::can_name`]).
const NAME_RULE: &str =
    "letters (a-z, A-Z) and digits, with one of - . _ : @ / + (or --) between them";

pub(crate) fn cant_name(name: &str) -> String {
    format!("{name:?} can't name an image in a layout: a name is {NAME_RULE}")
}

/// One of several parts of a list, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    index: u64,
    of: u64,
}

/// Parses `I/N`.
impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not I/N, such as 0/4; I is 0 to N-1");
        let (index, of) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (index, of) = (number(index)?, number(of)?);
        if index < of {
            Ok(Self { index, of })
        } else {
            Err(wrong())
        }
    }
}

impl Shard {
    /// Whether this part contains the image. Only the reference of the image matters, so the answer is the same on
    /// every machine and in every list.
    pub(crate) fn has(self, reference: &str) -> bool {
        let digest = Sha256::digest(reference.as_bytes());
        let number = digest
            .iter()
            .take(8)
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        number % self.of == self.index
    }
}

/// Names those images that have no name, according to the template. Two different images must not have the same name.
pub(crate) fn name_all(
    requests: Vec<ImageRequest>,
    template: Option<&str>,
) -> Result<Vec<ImageRequest>, String> {
    let mut known: HashMap<String, String> = HashMap::new();
    let mut named = Vec::with_capacity(requests.len());
    for request in requests {
        let request = match (&request.name, template) {
            (None, Some(template)) => {
                let name = fill(template, &request)?;
                request.name(name)
            }
            _ => request,
        };
        let name = match &request.name {
            Some(name) => name.clone(),
            None => OciLayout::name_of_reference(&request.reference).to_owned(),
        };
        if !OciLayout::can_name(&name) {
            return Err(format!(
                "{}: {}: give it a name of its own, by name=NAME in the list or by oci:DIR:TEMPLATE",
                request.reference,
                cant_name(&name)
            ));
        }
        let shown = match &request.platforms {
            Platforms::Configured => request.reference.clone(),
            Platforms::One(platform) => format!("{} ({platform})", request.reference),
            Platforms::All => format!("{} (all)", request.reference),
        };
        if let Some(other) = known.insert(name.clone(), shown.clone())
            && other != shown
        {
            return Err(format!(
                "both {other} and {shown} would be called {name}: give them names of their own, by name=NAME in the \
                 list or by oci:DIR:TEMPLATE"
            ));
        }
        named.push(request);
    }
    Ok(named)
}

/// The placeholders of a template.
const PARTS: [&str; 5] = [
    "{registry}",
    "{repository}",
    "{name}",
    "{tag}",
    "{platform}",
];

/// Whether this is a template whose results can be names.
pub(crate) fn is_template(text: &str) -> bool {
    let parts = PARTS.iter().any(|part| text.contains(part));
    parts && OciLayout::can_name(&with_example_parts(text))
}

/// Replaces each placeholder by a letter.
fn with_example_parts(text: &str) -> String {
    let replace = |text: String, part: &&str| text.replace(part, "x");
    PARTS.iter().fold(text.to_owned(), replace)
}

/// The message for a template that is not one.
pub(crate) fn cant_be_template(text: &str) -> String {
    if with_example_parts(text).contains(['{', '}']) {
        let parts = PARTS.join(", ");
        format!(
            "{text:?} has a {{ or }} that belongs to no placeholder; the placeholders are {parts}"
        )
    } else {
        format!("{text:?} can't name images in a layout: a name is {NAME_RULE}")
    }
}

fn fill(template: &str, request: &ImageRequest) -> Result<String, String> {
    let mut name = template.to_owned();
    if name.contains("{platform}") {
        let Platforms::One(platform) = &request.platforms else {
            let reference = &request.reference;
            return Err(format!(
                "{{platform}} can't be filled in for {reference}: no single platform is \
                 requested; give platform=OS/ARCH in the list, or --platform OS/ARCH"
            ));
        };
        name = name.replace("{platform}", &platform.to_string().replace('/', "-"));
    }
    if PARTS.iter().any(|part| name.contains(part)) {
        let parts = parts_of(&request.reference)?;
        for (part, text) in PARTS.iter().zip(&parts) {
            name = name.replace(part, text);
        }
    }
    if OciLayout::can_name(&name) {
        Ok(name)
    } else {
        Err(cant_name(&name))
    }
}

/// The registry, the repository, the last part of the repository, and the tag or else the digest.
fn parts_of(reference: &str) -> Result<[String; 4], String> {
    let parsed = reference
        .strip_prefix("docker://")
        .and_then(|name| RegistryName::parse(name).ok());
    let RegistryName {
        host,
        repository,
        tag,
        digest,
    } = parsed.ok_or_else(|| {
        format!(
            "a placeholder gets its value from the name of a docker:// image, and {reference} is not one"
        )
    })?;
    let name = repository
        .rsplit('/')
        .next()
        .unwrap_or(&repository)
        .to_owned();
    let tag = match (tag, digest) {
        (Some(tag), _) => tag.to_owned(),
        (None, Some(digest)) => digest.replace(':', "-"),
        (None, None) => "latest".to_owned(),
    };
    Ok([host.to_owned(), repository.into_owned(), name, tag])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_comments_platforms_and_names() {
        let text = "# all of them\n\n docker://a.b/c:d  # the first\n\
                    docker://a.b/e platform=linux/arm64 name=e-arm\ndocker://a.b/f platform=all\r\n";
        let requests = parse(text).expect("a list");
        let expected = [
            ImageRequest::new("docker://a.b/c:d"),
            ImageRequest::new("docker://a.b/e")
                .platforms("linux/arm64".parse().expect("a platform"))
                .name("e-arm"),
            ImageRequest::new("docker://a.b/f").platforms(Platforms::All),
        ];
        assert_eq!(requests, expected);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let requests = parse("\u{feff}docker://a.b/c:d\n").expect("a list");
        assert_eq!(requests, [ImageRequest::new("docker://a.b/c:d")]);
        assert_eq!(parse("\u{feff}# a comment\n"), Ok(Vec::new()));
    }

    #[test]
    fn errors_in_a_list_name_the_line() {
        for wrong in [
            "a.b/c",
            "docker://a platform=x",
            "docker://a name=..",
            "docker://a b",
            "docker://a name=b name=c",
            "docker://a platform=all name=b platform=all",
        ] {
            let error = parse(&format!("# one\n{wrong}")).expect_err(wrong);
            assert!(error.starts_with("line 2: "), "{error}");
        }
    }

    #[test]
    fn each_image_is_in_one_part_of_a_list() {
        let shards: Vec<Shard> = (0..3)
            .map(|index| format!("{index}/3").parse().expect("a part"))
            .collect();
        let mut counts = [0; 3];
        for number in 0..300 {
            let reference = format!("docker://a.b/c:{number}");
            let having: Vec<usize> = (0..3).filter(|i| shards[*i].has(&reference)).collect();
            assert_eq!(having.len(), 1);
            counts[having[0]] += 1;
        }
        assert!(
            counts.iter().all(|count| (70..130).contains(count)),
            "{counts:?}"
        );
        for wrong in ["", "1", "3/3", "0/0", "-1/2", "a/b"] {
            wrong.parse::<Shard>().expect_err(wrong);
        }
    }

    #[test]
    fn templates_are_filled_with_the_parts_of_a_name() {
        let fill = |template: &str, reference: &str| {
            assert!(is_template(template), "{template}");
            let requests = vec![ImageRequest::new(reference)];
            let mut named = name_all(requests, Some(template))?;
            Ok::<_, String>(named.remove(0).name.unwrap_or_default())
        };
        let image = "docker://quay.io:443/a/b:c";
        assert_eq!(fill("{name}-{tag}", image), Ok("b-c".into()));
        let all = fill("{registry}/{repository}:{tag}", image);
        assert_eq!(all, Ok("quay.io:443/a/b:c".into()));
        fill("{platform}", image).expect_err("no platform");
        fill("{name}", "oci:a:b").expect_err("no registry");
        assert!(!is_template("name") && !is_template("{name}{") && !is_template("{what}"));
    }

    #[test]
    fn two_images_can_not_have_the_same_name() {
        let named = |names: [&str; 2]| {
            let requests = names.map(ImageRequest::new).to_vec();
            name_all(requests, Some("{name}"))
        };
        let error = named(["docker://a.b/c:1", "docker://a.b/c:2"]).expect_err("the same name");
        assert!(error.contains("would be called c"), "{error}");
        named(["docker://a.b/c:1", "docker://a.b/d:1"]).expect("different names");
        let requests = vec![
            ImageRequest::new("docker://a.b/c:1"),
            ImageRequest::new("docker://a.b/d:1").name("a.b/c:1"),
        ];
        let error = name_all(requests, None).expect_err("the name of another's reference");
        assert!(error.contains("would be called a.b/c:1"), "{error}");
        let error = name_all(vec![ImageRequest::new("docker://a.b/c__d:1")], None);
        let error = error.expect_err("no name in a layout");
        assert!(error.contains("a.b/c__d:1: "), "{error}");
        // The same image twice is no error.
        named(["docker://a.b/c:1", "docker://a.b/c:1"]).expect("the same image");
    }
}
