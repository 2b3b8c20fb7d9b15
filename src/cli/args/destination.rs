//! The destination of a pull, or another layout, on the command line.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use longshore::OciLayout;

use super::reference::transport_of;
use crate::cli::list;

/// The destination of a pull, given as `oci:DIR[:TAG]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) folder: PathBuf,
    pub(crate) tag: Option<String>,
}

/// Shows the destination as it was given.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci:{}", self.folder.display())?;
        match &self.tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

impl Destination {
    /// Parses a destination. The name of the folder need not be UTF-8.
    pub(super) fn parse(text: &OsStr) -> Result<Self, String> {
        let parsed = Self::split(text, "destination")?;
        if let Some(tag) = &parsed.tag
            && !OciLayout::can_name(tag)
            && !list::is_template(tag)
        {
            return Err(list::cant_name(tag));
        }
        Ok(parsed)
    }

    /// Parses the name of a layout that exists. Its images can have any names.
    pub(super) fn parse_existing(text: &OsStr) -> Result<Self, String> {
        match Self::split(text, "layout")? {
            Self { tag: Some(tag), .. } if tag.is_empty() => {
                Err("the TAG after oci:DIR: is missing".into())
            }
            parsed => Ok(parsed),
        }
    }

    fn split(text: &OsStr, what: &str) -> Result<Self, String> {
        let shown = text.display();
        let Some(rest) = text.as_bytes().strip_prefix(b"oci:") else {
            return Err(not_a_layout(&shown.to_string(), what));
        };
        let (folder, tag) = match rest.iter().position(|byte| *byte == b':') {
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
            None => (rest, None),
        };
        if folder.is_empty() {
            return Err(format!("a {what} is oci:DIR[:TAG], and the DIR is missing"));
        }
        Ok(Self {
            folder: OsStr::from_bytes(folder).into(),
            tag: tag.map(|tag| String::from_utf8_lossy(tag).into_owned()),
        })
    }
}

/// Returns the message for a destination that is not an OCI image layout: what to write instead.
fn not_a_layout(text: &str, what: &str) -> String {
    match transport_of(text) {
        _ if what != "destination" => {
            format!("a {what} is oci:DIR[:TAG]; did you mean oci:{text}?")
        }
        Some("docker") => {
            "this is an image, and the destination after it is missing: oci:DIR[:TAG]".into()
        }
        Some(_) => format!(
            "a destination is oci:DIR[:TAG]; pull the image there, and then copy it: \
             skopeo copy oci:DIR:TAG {text}"
        ),
        None => format!("a destination is oci:DIR[:TAG]; did you mean oci:{text}?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let to = |folder: &str, tag: Option<&str>| {
            Some(Destination {
                folder: folder.into(),
                tag: tag.map(str::to_owned),
            })
        };
        let table = [
            ("oci:dir", to("dir", None)),
            ("oci:/a/b:latest", to("/a/b", Some("latest"))),
            (
                "oci:dir:name/with:parts",
                to("dir", Some("name/with:parts")),
            ),
            ("dir", None),
            ("oci:", None),
            ("oci::tag", None),
            ("oci:dir:", None),
            ("oci:dir:a b", None),
            ("dir:x", None),
        ];
        for (text, expected) in table {
            assert_eq!(Destination::parse(text.as_ref()).ok(), expected, "{text}");
        }
        let odd = OsStr::from_bytes(b"oci:a\xff:v1");
        let parsed = Destination::parse(odd).expect("a folder");
        assert_eq!(parsed.folder.as_os_str().as_bytes(), b"a\xff");
        assert_eq!(parsed.tag.as_deref(), Some("v1"));
        Destination::parse(OsStr::from_bytes(b"oci:a:\xff")).expect_err("no tag");
    }
    #[test]
    fn another_destination_gets_advice() {
        let table = [
            ("x", "did you mean oci:x?"),
            ("/a/b", "did you mean oci:/a/b?"),
            ("docker://a/b:c", "the destination after it is missing"),
            ("dir:x", "skopeo copy oci:DIR:TAG dir:x"),
            (
                "oci-archive:x.tar",
                "skopeo copy oci:DIR:TAG oci-archive:x.tar",
            ),
            (
                "containers-storage:x",
                "skopeo copy oci:DIR:TAG containers-storage:x",
            ),
        ];
        for (text, advice) in table {
            let said = Destination::parse(text.as_ref()).expect_err(text);
            assert!(said.contains(advice), "{text}: {said}");
        }
    }

    #[test]
    fn a_layout_that_exists_may_have_images_of_any_name() {
        let parsed = Destination::parse_existing("oci:dir:a b".as_ref()).expect("a name");
        assert_eq!(parsed.tag.as_deref(), Some("a b"));
        for wrong in ["dir", "oci:", "oci:dir:"] {
            Destination::parse_existing(wrong.as_ref()).expect_err(wrong);
        }
    }
}
