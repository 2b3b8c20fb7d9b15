//! The destination of a pull, or another layout, on the command line.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use longshore::OciLayout;
use strsim::damerau_levenshtein;

use super::local::{check_path, is_archive};
use super::reference::transport_of;
use crate::cli::list;

/// The destinations of a pull.
const FORMS: &str = "oci:DIR[:TAG], oci-archive:FILE[:TAG] or dir:DIR";

/// The form in which a destination holds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// An OCI image layout, which may exist already.
    Layout,
    /// A tar archive of a layout.
    Archive,
    /// skopeo's folder of a single image.
    Folder,
}

impl Form {
    /// The name of skopeo's transport, with its colon.
    fn prefix(self) -> &'static str {
        match self {
            Self::Layout => "oci:",
            Self::Archive => "oci-archive:",
            Self::Folder => "dir:",
        }
    }

    /// The form that the destination's name begins with, and the rest of the name.
    fn of(text: &OsStr) -> Option<(Self, &[u8])> {
        let forms = [Self::Layout, Self::Archive, Self::Folder];
        forms.into_iter().find_map(|form| {
            let rest = text.as_bytes().strip_prefix(form.prefix().as_bytes())?;
            Some((form, rest))
        })
    }
}

/// The destination of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) form: Form,
    /// The folder or the file.
    pub(crate) path: PathBuf,
    /// The name of the image, or a template of names. A folder of a single image has none.
    pub(crate) tag: Option<String>,
}

/// Shows the destination as it was given.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.form.prefix(), self.path.display())?;
        match &self.tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

impl Destination {
    /// Parses a destination. The name of the folder or file need not be UTF-8.
    pub(super) fn parse(text: &OsStr) -> Result<Self, String> {
        let Some((form, rest)) = Form::of(text) else {
            return Err(no_destination(&text.to_string_lossy()));
        };
        let parsed = Self::split(form, rest, "destination")?;
        if let Some(tag) = &parsed.tag
            && !OciLayout::can_name(tag)
            && !list::is_template(tag)
        {
            return Err(if tag.contains(['{', '}']) {
                list::cant_be_template(tag)
            } else {
                list::cant_name(tag)
            });
        }
        Ok(parsed)
    }

    /// Parses the name of a layout that exists. Its images can have any names.
    pub(super) fn parse_existing(text: &OsStr) -> Result<Self, String> {
        let Some((Form::Layout, rest)) = Form::of(text) else {
            let shown = text.to_string_lossy();
            return Err(match transport_of(&shown) {
                Some(_) => {
                    "a layout is oci:DIR[:TAG]; nothing else can be verified or pruned".into()
                }
                None if is_archive(&shown) || Path::new(text).is_file() => {
                    "a layout is oci:DIR[:TAG]; an archive can't be verified or pruned".into()
                }
                None => format!("a layout is oci:DIR[:TAG]; did you mean oci:{shown}?"),
            });
        };
        match Self::split(Form::Layout, rest, "layout")? {
            Self { tag: Some(tag), .. } if tag.is_empty() => {
                Err("the TAG after oci:DIR: is missing".into())
            }
            parsed => Ok(parsed),
        }
    }

    /// The folder in which incomplete files are during the pull: the layout, or else the folder of the destination.
    pub(super) fn incomplete_in(&self) -> PathBuf {
        match self.form {
            Form::Layout => self.path.clone(),
            Form::Archive | Form::Folder => folder_of(&self.path),
        }
    }

    /// Splits what follows the form. As in skopeo, the text after the first colon is the tag. A folder
    /// (`dir:`) has none.
    fn split(form: Form, rest: &[u8], what: &str) -> Result<Self, String> {
        let colon = match form {
            Form::Layout | Form::Archive => rest.iter().position(|byte| *byte == b':'),
            Form::Folder => None,
        };
        let (path, tag) = match colon {
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
            None => (rest, None),
        };
        if path.is_empty() {
            let (form, place) = match form {
                Form::Layout => ("oci:DIR[:TAG]", "DIR"),
                Form::Archive => ("oci-archive:FILE[:TAG]", "FILE"),
                Form::Folder => ("dir:DIR", "DIR"),
            };
            return Err(format!("a {what} is {form}, and the {place} is missing"));
        }
        check_path(form.prefix(), &String::from_utf8_lossy(path))?;
        if form == Form::Archive && path == b"-" {
            return Err(
                "an archive can't be written to stdout; name a file: oci-archive:FILE".into(),
            );
        }
        Ok(Self {
            form,
            path: OsStr::from_bytes(path).into(),
            tag: tag.map(|tag| String::from_utf8_lossy(tag).into_owned()),
        })
    }
}

/// The folder of a path.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Returns the message for a text that is not a destination. It says what to write instead.
fn no_destination(text: &str) -> String {
    match transport_of(text) {
        Some("docker") => {
            // The command that pushes is not told: whoever has forgotten the destination would overwrite the image.
            format!(
                "this is an image, and the destination after it is missing: {FORMS}; longshore does not push to a registry"
            )
        }
        Some(transport) => {
            let copy = copy_to(transport, text);
            format!(
                "a destination is {FORMS}; pull the image into oci:DIR:TAG, and then copy it: {copy}"
            )
        }
        None => match meant(text) {
            Some(meant) => format!("a destination is {FORMS}; did you mean {meant}?"),
            None => format!("a destination is {FORMS}"),
        },
    }
}

/// The destination that is probably meant by a text without one of the forms.
fn meant(text: &str) -> Option<String> {
    let prefix = |path: &str| {
        let form = if is_archive(path) {
            Form::Archive
        } else {
            Form::Layout
        };
        form.prefix()
    };
    let other_form = text.split_once(':').or_else(|| text.split_once("//"));
    let meant = match other_form {
        Some((form, path)) if is_name_of_form(form) => {
            let path = path.trim_start_matches("//");
            format!("{}{path}", prefix(path))
        }
        _ if text.contains("://") => return None,
        _ => format!("{}{text}", prefix(text)),
    };
    // What is refused itself is no help.
    Destination::parse(meant.as_ref()).ok().map(|_| meant)
}

/// Whether this is another name of a layout or an archive, or is misspelt, and no folder is called so.
fn is_name_of_form(text: &str) -> bool {
    const NAMES: [&str; 10] = [
        "oci",
        "oci-archive",
        "oci-dir",
        "oci-image",
        "oci-layout",
        "oci-tar",
        "archive",
        "layout",
        "tar",
        "tarball",
    ];
    let lower_case = text.to_ascii_lowercase();
    let is_near = |name: &&str| damerau_levenshtein(name, &lower_case) <= name.len() / 4;
    NAMES.iter().any(is_near) && !Path::new(text).exists()
}

/// Returns the command that copies an image of a layout to this reference of another transport.
fn copy_to(transport: &str, reference: &str) -> String {
    // The docker daemon takes no image without a tag.
    let name = reference.strip_prefix("docker-daemon:");
    let has_no_tag = name.is_some_and(|name| !name.contains([':', '@']));
    let tag = if has_no_tag { ":TAG" } else { "" };
    let reference = match reference.strip_prefix(transport) {
        Some(":") => match transport {
            "docker-archive" => "docker-archive:FILE:NAME:TAG".into(),
            "docker-daemon" => "docker-daemon:NAME:TAG".into(),
            _ => format!("{transport}:NAME"),
        },
        _ => quoted(&format!("{reference}{tag}")),
    };
    format!("skopeo copy oci:DIR:TAG {reference}")
}

/// Quotes a word for the shell, if that is needed.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let to = |form, path: &str, tag: Option<&str>| {
            Some(Destination {
                form,
                path: path.into(),
                tag: tag.map(str::to_owned),
            })
        };
        let table = [
            ("oci:dir", to(Form::Layout, "dir", None)),
            ("oci:/a/b:latest", to(Form::Layout, "/a/b", Some("latest"))),
            (
                "oci:dir:name/with:parts",
                to(Form::Layout, "dir", Some("name/with:parts")),
            ),
            ("oci-archive:a.tar", to(Form::Archive, "a.tar", None)),
            (
                "oci-archive:/a/b.tar:v1",
                to(Form::Archive, "/a/b.tar", Some("v1")),
            ),
            (
                "oci-archive:a.tar:{name}-{tag}",
                to(Form::Archive, "a.tar", Some("{name}-{tag}")),
            ),
            ("dir:a/b", to(Form::Folder, "a/b", None)),
            ("dir:a:b", to(Form::Folder, "a:b", None)),
            ("dir", None),
            ("dir:", None),
            ("oci:", None),
            ("oci::tag", None),
            ("oci:dir:", None),
            ("oci:dir:a b", None),
            ("oci-archive:", None),
            ("oci-archive:a.tar:", None),
        ];
        for (text, expected) in table {
            let parsed = Destination::parse(text.as_ref());
            if let Ok(parsed) = &parsed {
                assert_eq!(parsed.to_string(), text);
            }
            assert_eq!(parsed.ok(), expected, "{text}");
        }
        let odd = OsStr::from_bytes(b"oci:a\xff:v1");
        let parsed = Destination::parse(odd).expect("a folder");
        assert_eq!(parsed.path.as_os_str().as_bytes(), b"a\xff");
        assert_eq!(parsed.tag.as_deref(), Some("v1"));
        Destination::parse(OsStr::from_bytes(b"oci:a:\xff")).expect_err("no tag");
    }

    #[test]
    fn an_unsupported_destination_gets_advice() {
        let table = [
            ("x", "did you mean oci:x?"),
            ("/a/b", "did you mean oci:/a/b?"),
            ("a/b.tar", "did you mean oci-archive:a/b.tar?"),
            ("docker://a/b:c", "the destination after it is missing"),
            ("docker://a/b:c", "longshore does not push to a registry"),
            (
                "oci:x:{Tag}",
                "the placeholders are {registry}, {repository}, {name}, {tag}, {platform}",
            ),
            ("x:v1", "did you mean oci:x:v1?"),
            ("tarball:x.tar", "did you mean oci-archive:x.tar?"),
            ("oci-dir:x", "did you mean oci:x?"),
            ("oci//x", "did you mean oci:x?"),
            ("OCI:x:v1", "did you mean oci:x:v1?"),
            ("oci-archiv:x.tar", "did you mean oci-archive:x.tar?"),
            ("oci://x", "did you mean oci:x, or oci:/x?"),
            ("oci-archive://x.tar", "did you mean oci-archive:x.tar, or"),
            ("oci:~/x", "type oci:$HOME/x"),
            ("oci-archive:-", "can't be written to stdout"),
            (
                "docker-archive:x.tar",
                "skopeo copy oci:DIR:TAG docker-archive:x.tar",
            ),
            (
                "docker-archive:x.tar:a/b:c",
                "skopeo copy oci:DIR:TAG docker-archive:x.tar:a/b:c",
            ),
            (
                "docker-archive:",
                "skopeo copy oci:DIR:TAG docker-archive:FILE:NAME:TAG",
            ),
            (
                "docker-daemon:a/b:c",
                "skopeo copy oci:DIR:TAG docker-daemon:a/b:c",
            ),
            (
                "docker-daemon:a",
                "skopeo copy oci:DIR:TAG docker-daemon:a:TAG",
            ),
            (
                "containers-storage:x",
                "skopeo copy oci:DIR:TAG containers-storage:x",
            ),
            (
                "containers-storage:[overlay@/a]it's",
                r"skopeo copy oci:DIR:TAG 'containers-storage:[overlay@/a]it'\''s'",
            ),
        ];
        for (text, advice) in table {
            let message = Destination::parse(text.as_ref()).expect_err(text);
            assert!(message.contains(advice), "{text}: {message}");
        }
    }

    #[test]
    fn a_destination_that_is_refused_itself_is_not_suggested() {
        for text in ["", "a b:c d", "s3://a/b", "~/x"] {
            let message = Destination::parse(text.as_ref()).expect_err(text);
            assert!(message.ends_with(FORMS), "{text}: {message}");
        }
    }

    #[test]
    fn images_of_an_existing_layout_may_have_any_name() {
        let parsed = Destination::parse_existing("oci:dir:a b".as_ref()).expect("a name");
        assert_eq!(parsed.tag.as_deref(), Some("a b"));
        for wrong in ["dir", "oci:", "oci:dir:", "dir:x", "oci-archive:x"] {
            Destination::parse_existing(wrong.as_ref()).expect_err(wrong);
        }
    }
}
