//! Walks layers that another program brings: those of an OCI layout, or an archive on its stdout. Prints what
//! is in them.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, bail};
use bench_walk::{BUFFER_BYTES, Hashing, Totals, on_threads, walk, walk_layer};
use clap::{Args, Parser};
use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

/// Walks the layers of an image.
#[derive(Debug, Parser)]
#[command(name = "walk")]
enum Arguments {
    /// Walk the first image of an OCI layout
    Layout(Layout),
    /// Run a command, and then walk the image in the layout that it has written
    After {
        #[command(flatten)]
        layout: Layout,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command, and walk the archive on its stdout
    Output {
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Layout {
    /// The number of threads; by default one for each processor
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Do not check the digests of the blobs, because the program that has stored them has done it
    #[arg(long)]
    verified: bool,
    /// The folder
    folder: PathBuf,
}

/// A layer in a layout.
struct Layer {
    digest: String,
    size: u64,
    diff_id: String,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let totals = match arguments {
        Arguments::Layout(layout) => layout.walk()?,
        Arguments::After { layout, command } => {
            let mut command = to_run(&command)?;
            let status = command.stdout(Stdio::null()).status();
            let status = status.with_context(|| format!("can't run {command:?}"))?;
            if !status.success() {
                bail!("{command:?} failed: {status}");
            }
            layout.walk()?
        }
        Arguments::Output { command } => walk_output(to_run(&command)?)?,
    };
    totals.print().context("can't print the totals")
}

fn to_run(command: &[String]) -> anyhow::Result<Command> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

fn walk_output(mut command: Command) -> anyhow::Result<Totals> {
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("can't run {command:?}"))?;
    let output = child.stdout.take().context("the command has no stdout")?;
    let walked = walk(BufReader::with_capacity(BUFFER_BYTES, output));
    let status = child.wait().context("can't wait for the command")?;
    // If the command failed, that is why the archive is damaged.
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    walked.with_context(|| format!("can't walk the output of {command:?}"))
}

impl Layout {
    fn walk(&self) -> anyhow::Result<Totals> {
        let mut layers = self.layers().context("can't read the layout")?;
        // The threads end at about the same time if the largest layer is not the last one.
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = self.threads.unwrap_or_else(processors);
        let totals = on_threads(threads, &layers, |layer| {
            let walked = self.walk_layer(layer);
            walked.map_err(|error| {
                io::Error::new(error.kind(), format!("layer {}: {error}", layer.digest))
            })
        });
        totals.context("can't walk the layers")
    }

    fn walk_layer(&self, layer: &Layer) -> io::Result<Totals> {
        let file = File::open(blob(&self.folder, &layer.digest))?;
        if self.verified {
            let file = BufReader::with_capacity(BUFFER_BYTES, file);
            return walk_layer(MultiGzDecoder::new(file), &layer.diff_id);
        }
        let mut hashing = Hashing::new(file);
        let file = BufReader::with_capacity(BUFFER_BYTES, &mut hashing);
        let totals = walk_layer(MultiGzDecoder::new(file), &layer.diff_id)?;
        hashing.check(&layer.digest)?;
        Ok(totals)
    }

    fn layers(&self) -> anyhow::Result<Vec<Layer>> {
        let index = document(&self.folder.join("index.json"))?;
        let manifest = digest(&index["manifests"][0])?;
        let manifest = document(&blob(&self.folder, manifest))?;
        let config = document(&blob(&self.folder, digest(&manifest["config"])?))?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        let diff_ids = config["rootfs"]["diff_ids"].as_array();
        let diff_ids = diff_ids.context("no diff_ids")?;
        if layers.len() != diff_ids.len() {
            bail!("{} layers, {} diff_ids", layers.len(), diff_ids.len());
        }
        let layer = |(layer, diff_id): (&Value, &Value)| {
            Ok(Layer {
                digest: digest(layer)?.to_owned(),
                size: layer["size"].as_u64().context("a layer without a size")?,
                diff_id: diff_id.as_str().context("no diff_id")?.to_owned(),
            })
        };
        layers.iter().zip(diff_ids).map(layer).collect()
    }
}

fn digest(descriptor: &Value) -> anyhow::Result<&str> {
    let digest = descriptor["digest"].as_str();
    digest.context("a descriptor without a digest")
}

fn document(file: &Path) -> anyhow::Result<Value> {
    let text = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))
}

/// The file of a blob. Digests are `sha256:` and 64 digits, here.
fn blob(folder: &Path, digest: &str) -> PathBuf {
    let digits = digest.trim_start_matches("sha256:");
    folder.join("blobs/sha256").join(digits)
}
