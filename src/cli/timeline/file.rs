//! The file of a picture: its format, by its extension, and how it is written.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::args::Form;
use crate::cli::failure::Failure;
use crate::cli::output_path::OutputPath;

/// The format of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Html,
    Svg,
    /// Trace events, as Chrome and Perfetto read them.
    Trace,
}

/// The file of a timeline, and its format.
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

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the file can be written, and changes nothing. Blocks.
    pub(super) fn check(&self) -> Result<(), Failure> {
        // The temporary file is removed when it is dropped.
        let checked = self.output().and_then(|to| Temporary::for_output(&to));
        let checked = checked.map(drop);
        checked.map_err(Failure::of_output(&self.path.display().to_string()))
    }

    /// Writes the file under another name, and then gives it its own. A file of this name is replaced, and keeps its
    /// permissions. Blocks.
    pub(super) fn write(&self, text: &str) -> Result<(), Failure> {
        let write = || {
            let output = self.output()?;
            let mut temporary = Temporary::for_output(&output)?;
            temporary.file.write_all(text.as_bytes())?;
            temporary.rename(output.path())
        };
        write().map_err(|error| {
            let what = format!("can't write the timeline into {}", self.path.display());
            anyhow::Error::from(error).context(what).into()
        })
    }

    /// The file to make or replace. A symbolic link is followed.
    fn output(&self) -> io::Result<OutputPath> {
        OutputPath::of(&self.path, Form::Archive)
    }
}

/// A file that is removed when it is dropped, unless it was renamed.
struct Temporary {
    file: File,
    path: Option<PathBuf>,
}

impl Temporary {
    /// Creates a file with a name of its own in the same folder, with the permissions of the file that it will replace.
    fn for_output(output: &OutputPath) -> io::Result<Self> {
        let path = output.path();
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{:08x}.tmp", fastrand::u32(..)));
        let path = path.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let path = Some(path);
        let temporary = Self { file, path };
        output.copy_permissions(&temporary.file)?;
        Ok(temporary)
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
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

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
    fn a_link_stays_and_its_file_keeps_its_permissions() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("file"), folder.path().join("link.html"));
        fs::write(&file, "old").expect("a file");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("permissions");
        symlink("file", &link).expect("a link");
        let target = Target::parse(link.as_os_str()).expect("a target");
        target.check().expect("it can be written");
        target.write("new").expect("written");
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).expect("text"), "new");
        let mode = fs::metadata(&file).expect("looked").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).expect("entries").count(), 2);

        fs::remove_file(&file).expect("it was there");
        assert!(matches!(target.check(), Err(Failure::Usage(_))));
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
