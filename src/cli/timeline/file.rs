//! The file of a picture: its format, by its extension, and how it is written.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;

/// The format of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Html,
    Svg,
    /// Trace events, as Chrome and Perfetto read them.
    Trace,
}

/// Where a picture goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    path: PathBuf,
    pub(super) format: Format,
}

impl Target {
    /// Takes the format from the extension of the file's name.
    pub(crate) fn parse(path: &OsStr) -> Result<Self, String> {
        let path = PathBuf::from(path);
        let extension = path.extension().map(OsStr::to_ascii_lowercase);
        let format = match extension.as_deref().and_then(OsStr::to_str) {
            Some("html") => Format::Html,
            Some("svg") => Format::Svg,
            Some("json") => Format::Trace,
            _ => {
                return Err(
                    "the name must end in .html (a page), .svg (a picture) or .json (a trace for \
                     Perfetto)"
                        .into(),
                );
            }
        };
        Ok(Self { path, format })
    }

    /// Checks that the file can be written, and changes nothing. Blocks.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let checked = if self.path.is_dir() {
            Err(io::ErrorKind::IsADirectory.into())
        } else {
            // It is removed when it is dropped.
            Temporary::beside(&self.path).map(drop)
        };
        let why = |error| format!("can't write {}: {error}", self.path.display());
        checked.map_err(|error| Failure::usage(why(error)))
    }

    /// Writes the file under another name, and then gives it its own. A file of this name is replaced. Blocks.
    pub(super) fn write(&self, text: &str) -> Result<(), Failure> {
        let written = Temporary::beside(&self.path).and_then(|mut temporary| {
            temporary.file.write_all(text.as_bytes())?;
            temporary.rename(&self.path)
        });
        written.map_err(|error| {
            let what = format!("can't write the timeline into {}", self.path.display());
            anyhow::Error::from(error).context(what).into()
        })
    }
}

/// A file that is removed when it is dropped, unless it was renamed.
struct Temporary {
    file: File,
    path: Option<PathBuf>,
}

impl Temporary {
    /// Creates a file with a name of its own in the same folder.
    fn beside(path: &Path) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{:08x}.tmp", fastrand::u32(..)));
        let path = path.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let path = Some(path);
        Ok(Self { file, path })
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, to)?;
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The folder may be gone.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_chooses_the_format() {
        let table = [
            ("a.html", Some(Format::Html)),
            ("b/a.SVG", Some(Format::Svg)),
            ("a.b.json", Some(Format::Trace)),
            ("a.htm", None),
            ("a.png", None),
            ("svg", None),
            (".svg", None),
            ("a.svg/", Some(Format::Svg)),
            ("", None),
        ];
        for (name, expected) in table {
            let target = Target::parse(OsStr::new(name));
            assert_eq!(target.ok().map(|target| target.format), expected, "{name}");
        }
        let error = Target::parse(OsStr::new("a.png")).expect_err("no such format");
        assert!(
            [".html", ".svg", ".json"]
                .iter()
                .all(|name| error.contains(name))
        );
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.svg");
        let target = Target::parse(path.as_os_str()).expect("a target");
        target.check().expect("it can be written");
        assert!(!path.exists());
        for text in ["one", "two"] {
            target.write(text).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("text"), text);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("entries").count(), 1);

        let missing = folder.path().join("missing/a.svg");
        let target = Target::parse(missing.as_os_str()).expect("a target");
        assert!(matches!(target.check(), Err(Failure::Usage(_))));
        assert!(matches!(target.write("x"), Err(Failure::Failed(_))));

        fs::create_dir(folder.path().join("b.svg")).expect("a folder");
        let target = Target::parse(folder.path().join("b.svg").as_os_str()).expect("a target");
        assert!(matches!(target.check(), Err(Failure::Usage(_))));
        assert!(matches!(target.write("x"), Err(Failure::Failed(_))));
        assert_eq!(fs::read_dir(folder.path()).expect("entries").count(), 2);
    }
}
