//! Images in files and folders of this machine, and the advice if they are damaged. Pure.

use longshore::{BlobError, Error};

/// An image in a file or a folder of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalCopy<'a> {
    /// An OCI image layout, by its folder.
    Layout(&'a str),
    /// A folder of skopeo's form (`dir:`).
    Folder,
    /// A tar archive.
    Archive,
}

/// The words by which skopeo says that a file has not the form that it should have.
const WRONG_FORM: [&str; 6] = [
    "archive/tar: ",
    "unexpected EOF",
    "unexpected end of JSON input",
    "invalid character",
    "gzip: invalid ",
    "corrupt input",
];

impl<'a> LocalCopy<'a> {
    /// Returns where the image is. `None` if it is not in a file or a folder of this machine.
    pub(super) fn of(image: &'a str) -> Option<Self> {
        let (transport, rest) = image.split_once(':')?;
        match transport {
            "oci" => Some(Self::Layout(
                rest.split_once(':').map_or(rest, |(folder, _)| folder),
            )),
            "dir" => Some(Self::Folder),
            "oci-archive" | "docker-archive" => Some(Self::Archive),
            _ => None,
        }
    }

    /// Returns the advice for an error that says that the copy is damaged or incomplete. `None` for other errors.
    pub(super) fn hint(self, error: &Error) -> Option<String> {
        let is_damaged = match error {
            Error::Refused { refusal, .. } => self.has_wrong_form(&refusal.message),
            Error::Blob { source, .. } => match source {
                BlobError::Refused(refusal) if refusal.message.contains("no such file") => {
                    return Some(self.hint_of_missing());
                }
                BlobError::Refused(refusal) => self.has_wrong_form(&refusal.message),
                BlobError::Corrupt { .. }
                | BlobError::TooLong { .. }
                | BlobError::WrongSize { .. }
                | BlobError::Short { .. } => true,
                _ => false,
            },
            _ => false,
        };
        is_damaged.then(|| self.hint_of_damage())
    }

    /// Whether a message of skopeo says that a file of the copy has a wrong form, or that an archive lacks a part.
    fn has_wrong_form(self, message: &str) -> bool {
        let has = |words: &str| message.contains(words);
        // skopeo unpacks an OCI archive into a temporary folder, so these messages do not name the archive.
        let lacks_part = || {
            has("loading tar component") && has("file does not exist")
                || has("/index.json: no such file")
        };
        WRONG_FORM.into_iter().any(has) || self == Self::Archive && lacks_part()
    }

    /// Returns the advice for a copy without the blob that is needed.
    fn hint_of_missing(self) -> String {
        match self {
            Self::Layout(folder) => format!(
                "the copy in {folder} does not have this blob; a new pull into it fetches what is missing"
            ),
            Self::Folder | Self::Archive => {
                "this copy of the image does not have this blob; fetch the image anew".into()
            }
        }
    }

    /// Returns the advice for a copy that is damaged.
    fn hint_of_damage(self) -> String {
        match self {
            Self::Layout(folder) => format!(
                "the copy in {folder} is damaged; longshore verify --repair oci:{folder} removes damaged blobs, \
                 and then a new pull into it fetches what is missing"
            ),
            Self::Folder => "this copy of the image is damaged; fetch the image anew".into(),
            Self::Archive => {
                "the file is damaged, or no archive of this kind; fetch the image anew".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_and_folders_are_local_copies() {
        let table = [
            ("oci:a/b:c:d", Some(LocalCopy::Layout("a/b"))),
            ("oci:a", Some(LocalCopy::Layout("a"))),
            ("dir:a", Some(LocalCopy::Folder)),
            ("oci-archive:a:b", Some(LocalCopy::Archive)),
            ("docker-archive:a", Some(LocalCopy::Archive)),
            ("docker://a/b", None),
            ("containers-storage:a", None),
        ];
        for (image, copy) in table {
            assert_eq!(LocalCopy::of(image), copy, "{image}");
        }
    }

    #[test]
    fn files_of_a_wrong_form_are_found_by_the_words_of_skopeo() {
        let (archive, layout) = (LocalCopy::Archive, LocalCopy::Layout("a"));
        let table = [
            (
                archive,
                "creating temp directory: untarring file \"/var/tmp/x\": archive/tar: invalid tar header",
                true,
            ),
            (
                archive,
                "loading tar component \"manifest.json\": unexpected EOF",
                true,
            ),
            (
                archive,
                "loading tar component \"manifest.json\": file does not exist",
                true,
            ),
            (
                archive,
                "open /var/tmp/container_images_oci1/index.json: no such file or directory",
                true,
            ),
            (
                layout,
                "open a/index.json: no such file or directory",
                false,
            ),
            (layout, "unexpected end of JSON input", true),
            (archive, "lstat /a/b.tar: no such file or directory", false),
            (archive, "write /var/tmp/x: no space left on device", false),
        ];
        for (copy, message, expected) in table {
            assert_eq!(copy.has_wrong_form(message), expected, "{message}");
        }
    }

    #[test]
    fn the_advice_is_about_the_copy() {
        let hint = LocalCopy::Layout("x/y").hint_of_damage();
        assert!(
            hint.contains("longshore verify --repair oci:x/y removes"),
            "{hint}"
        );
        for copy in [LocalCopy::Archive, LocalCopy::Folder] {
            assert!(copy.hint_of_damage().contains("damaged"), "{copy:?}");
        }
    }
}
