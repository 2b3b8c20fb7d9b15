//! Pulls many images with a program that pulls one: several processes at once.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, bail};
use clap::Args;

use crate::workload::TAG;

/// The placeholder for the image in the command.
pub(crate) const IMAGE: &str = "{image}";
/// The placeholder for the layout in the command.
pub(crate) const LAYOUT: &str = "{layout}";

/// Runs a command for each image of a list.
#[derive(Debug, Args)]
pub(crate) struct Each {
    /// How many processes run at once
    #[arg(long)]
    at_once: NonZeroUsize,
    /// The folder for their layouts
    #[arg(long)]
    into: PathBuf,
    /// A file with an image a line
    #[arg(long)]
    list: PathBuf,
    /// The command, with {image} and {layout}
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Each {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let list = fs::read_to_string(&self.list)?;
        let images: Vec<&str> = list.lines().collect();
        fs::create_dir_all(&self.into)?;
        let next = AtomicUsize::new(0);
        let take = || -> anyhow::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(image) = images.get(number) else {
                    return Ok(());
                };
                self.pull(number, image)?;
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.at_once.get()).map(|_| scope.spawn(take)).collect();
            threads.into_iter().try_for_each(|thread| {
                let ended = thread.join();
                ended.unwrap_or_else(|_| bail!("a thread panicked"))
            })
        })
    }

    fn pull(&self, number: usize, image: &str) -> anyhow::Result<()> {
        let layout = match self.at_once.get() {
            // Processes that run one after the other can share a layout, and the blobs in it.
            1 => self.into.clone(),
            _ => self.into.join(number.to_string()),
        };
        let layout = layout.display().to_string();
        let tagged = format!("{LAYOUT}:{TAG}");
        let fill = |argument: &String| {
            let argument = argument.replace(IMAGE, image);
            let argument = argument.replace(&tagged, &format!("{layout}:i{number}"));
            argument.replace(LAYOUT, &layout)
        };
        let arguments: Vec<String> = self.command.iter().map(fill).collect();
        let (program, arguments) = arguments.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null());
        let status = command
            .status()
            .with_context(|| format!("can't start {program}"))?;
        if !status.success() {
            bail!("{program} failed for {image}: {status}");
        }
        Ok(())
    }
}
