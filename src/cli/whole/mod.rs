//! Destinations that appear whole, when the pull is complete: an archive of a layout, and skopeo's folder of an image.
//!
//! The images are pulled into a temporary layout in a [`TemporaryFolder`] beside the destination, on the same file system.
//! From that, the destination is made under a temporary name, and renamed. Whatever fails, the temporary folder is removed.

mod archive;
mod folder;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore::{OciLayout, PruneOptions};
use tokio_util::sync::CancellationToken;

use super::args::{Destination, Form};
use super::blocking;
use super::failure::Failure;
use super::output_path::{OutputPath, sync_folder};
use super::temporary_folder::TemporaryFolder;

/// How long to wait for the writes of an image that failed.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(60);

/// A destination that is being made. Dropping it removes everything that was made.
#[derive(Debug)]
pub(super) struct Whole {
    destination: Destination,
    output: OutputPath,
    temporary: TemporaryFolder,
}

impl Whole {
    /// Begins to make a destination that appears whole. `None` for a layout, which grows in its place.
    pub(super) async fn begin(destination: &Destination) -> Result<Option<Self>, Failure> {
        if destination.form == Form::Layout {
            return Ok(None);
        }
        let destination = destination.clone();
        let cant = Failure::of_output(&destination.to_string());
        let begin = move || {
            let output = OutputPath::of(&destination.path, destination.form)?;
            let temporary = TemporaryFolder::create_in(output.parent())?;
            if destination.form == Form::Folder {
                // If the owner can't be copied, that is found out before anything is fetched.
                let tried = temporary.path().join("tried");
                fs::create_dir(&tried)?;
                output.copy_owner_and_permissions(&tried)?;
            }
            Ok(Self {
                destination,
                output,
                temporary,
            })
        };
        blocking(begin).await.map(Some).map_err(cant)
    }

    /// Checks that this destination, which is no layout, can be made, and changes nothing.
    pub(super) async fn check(destination: &Destination) -> Result<(), Failure> {
        let cant = Failure::of_output(&destination.to_string());
        let Destination { path, form, .. } = destination.clone();
        let checked = blocking(move || OutputPath::of(&path, form)?.check());
        checked.await.map_err(cant)
    }

    /// The folder of the layout into which the images are to be pulled.
    pub(super) fn layout(&self) -> PathBuf {
        self.temporary.path().join("layout")
    }

    /// Whether the destination is a file that exists. An archive without the images that failed does not replace it.
    pub(super) async fn replaces_archive(&self) -> Result<bool, Failure> {
        if self.destination.form != Form::Archive {
            return Ok(false);
        }
        let path = self.output.path().to_owned();
        Ok(blocking(move || fs::exists(path)).await?)
    }

    /// Makes the destination from the images in the layout. If no image is there, nothing is made. `is_partial` is
    /// whether the layout may contain blobs of images that failed.
    pub(super) async fn finish(self, is_partial: bool) -> Result<(), Failure> {
        if is_partial {
            let layout = OciLayout::new(self.layout(), None);
            let options = PruneOptions::default().wait(PRUNE_TIMEOUT);
            let pruned = layout.prune(&options).await?;
            if let Some(error) = pruned.unfinished {
                return Err(error.into());
            }
        }
        let cant = cant_write(&self.destination);
        // If this future is dropped, the thread stops, and removes what it has made.
        let stop = CancellationToken::new();
        let _stopping = stop.clone().drop_guard();
        blocking(move || self.make(&stop)).await.map_err(cant)
    }

    fn make(&self, stop: &CancellationToken) -> io::Result<()> {
        let layout = self.layout();
        let Some(first) = first_digest(&layout)? else {
            return Ok(());
        };
        let made = self.temporary.path().join("made");
        match self.destination.form {
            Form::Layout => return Ok(()),
            Form::Archive => {
                let file = File::create_new(&made)?;
                self.output.copy_permissions(&file)?;
                archive::write(&layout, &file, stop)?;
                file.sync_all()?;
            }
            Form::Folder => {
                folder::make(&layout, &first, &made)?;
                self.output.copy_owner_and_permissions(&made)?;
            }
        }
        fs::rename(&made, self.output.path())?;
        sync_folder(self.output.parent())
    }
}

/// The digest of the first manifest in the index of a layout. `None` if there is none.
fn first_digest(layout: &Path) -> io::Result<Option<String>> {
    let index = fs::read(layout.join("index.json"))?;
    let index: serde_json::Value = serde_json::from_slice(&index)?;
    let digest = index["manifests"][0]["digest"].as_str();
    Ok(digest.map(str::to_owned))
}

fn cant_write(destination: &Destination) -> impl FnOnce(io::Error) -> Failure + use<> {
    let what = format!("can't write {destination}");
    move |error| anyhow::Error::from(error).context(what).into()
}
