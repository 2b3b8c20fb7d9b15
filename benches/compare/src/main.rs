//! Compares `longshore` with other programs that pull images: the same images from the same registries on the
//! loopback interface, in turn, several times, with every result checked.
//!
//! `README.md` in this folder describes how to run it, and what is measured.

#![allow(
    clippy::doc_markdown,
    reason = "doc comments of options are help texts for a terminal"
)]

mod chart;
mod check;
mod contestant;
mod dots;
mod each;
mod machine;
mod measure;
mod page;
mod registry;
mod relay;
mod results;
mod run;
mod table;
mod targets;
mod tools;
mod tree;
mod walked;
mod workload;

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};

use contestant::Contestant;
use each::Each;
use relay::{Distance, Relay};
use results::Report;
use tools::Tools;
use workload::Workload;

/// The protocol of the newest skopeo that the tests have.
const NEWEST_SKOPEO: &str = "0.2.8";

/// Compares longshore with other programs that pull images.
#[derive(Debug, Parser)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommands>,
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Make tables of figures that were kept with --json
    Show {
        /// Files with figures; several files count as one
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
        /// Write the results as a page that is read in a minute into this Markdown file, with a chart in an SVG file
        /// beside it, instead of all tables
        #[arg(long, value_name = "FILE", conflicts_with_all = ["against", "svg"])]
        page: Option<PathBuf>,
    },
    /// Run a command for each image of a list, which is how other programs pull many images
    #[command(hide = true)]
    Each(Each),
    /// Relay connections over a distance
    #[command(hide = true)]
    Relay(Relay),
    /// Show which of the project's targets are reached, by figures that were kept with --json
    Targets {
        /// Files with figures; several files count as one
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
#[derive(Debug, Args)]
struct Run {
    /// The images to pull: A to F, G (the layers of C are decompressed and walked), COUNTxSIZE, such as 40x5M, or
    /// many images: H1, H2, H3, H4, H4x10; and one image with the same layers: H1-one, H4-one
    #[arg(long, value_delimiter = ',', default_value = "A,B,C,D,E,F,G")]
    workloads: Vec<Workload>,
    /// The test registry's times to the first byte, in milliseconds
    #[arg(
        long,
        value_name = "MS",
        value_delimiter = ',',
        default_value = "0,10,50,200"
    )]
    ttfb: Vec<u64>,
    /// The distances of a distant registry: a round trip in milliseconds, and the bandwidth of the link in
    /// Mbit/s
    #[arg(
        long,
        value_name = "MS:MBITS",
        value_delimiter = ',',
        default_value = "30:1000,100:500"
    )]
    distance: Vec<Distance>,
    /// Let a distant registry redirect to another host for blobs, as most registries do; needs nginx
    #[arg(long)]
    elsewhere: bool,
    /// The registries to pull from
    #[arg(long, value_delimiter = ',', default_value = "test")]
    registry: Vec<RegistryKind>,
    /// The contestants: longshore[:PROXIES[:WORKERS]], skopeo[:PARALLEL], crane, oras[:CONCURRENCY],
    /// cip:LAYERS[:raw]; for G, also umoci[:PARALLEL] and bare:THREADS; for many images, CONTESTANT@N pulls N
    /// at once; default: all of them, or what --proxies says
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<Contestant>,
    /// Let longshore take part with each of these numbers of proxies, such as 1,2,4,auto,1-64
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    proxies: Vec<String>,
    /// How often each contestant pulls each image from each registry
    #[arg(long, value_name = "N", default_value = "5")]
    runs: NonZeroUsize,
    /// The skopeos for all contestants, by their protocol versions: 0.2.3, 0.2.6 or 0.2.8
    #[arg(
        long,
        value_name = "PROTOCOL",
        value_delimiter = ',',
        default_value = NEWEST_SKOPEO
    )]
    skopeo: Vec<String>,
    /// Keep skopeo's blob-info cache in memory for the other contestants, too, as longshore does; by default
    /// it is where skopeo has it, on disk
    #[arg(long)]
    memory_cache: bool,
    /// Sample the memory of each contestant with all its descendants, every 40 ms; this takes some time
    /// for each process
    #[arg(long)]
    tree_memory: bool,
    /// Kill a contestant that takes more than this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Images of a few layers and a few megabytes
    #[arg(long)]
    tiny: bool,
    /// The folder for images and results, best in memory; by default a new one
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Keep the images and the last results
    #[arg(long)]
    keep: bool,
    /// Keep the raw figures in a file, which is written again after each registry
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Output {
    /// The contestant that ratios refer to
    #[arg(long, value_name = "CONTESTANT")]
    against: Option<String>,
    /// Draw the medians into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RegistryKind {
    /// The test registry, at each --ttfb
    Test,
    /// The program docker-registry
    Docker,
    /// docker-registry with TLS and a login, at each --distance
    Distant,
}

fn main() -> ExitCode {
    start(Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("compare: {error:#}");
        ExitCode::FAILURE
    })
}

fn start(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        None => compare(&arguments.run, &arguments.output),
        Some(Subcommands::Show {
            files,
            output,
            page,
        }) => {
            let report = Report::read(&files)?;
            match page {
                Some(file) => page::write(&report, &file)?,
                None => output.print(&report)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Subcommands::Each(each)) => {
            each.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Subcommands::Relay(relay)) => {
            relay.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Subcommands::Targets { files }) => {
            print!("{}", targets::markdown(&Report::read(&files)?));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Measures, and prints the figures. If any contestant fails, this program fails in the end.
fn compare(run: &Run, output: &Output) -> anyhow::Result<ExitCode> {
    ctrlc::set_handler(|| measure::INTERRUPTED.store(true, Ordering::Relaxed))?;
    let tools = Tools::prepare()?;
    measure::adopt_orphans()?;
    let report = run.measure(&tools)?;
    output.print(&report)?;
    let failures = report.samples.iter().filter(|s| s.failure.is_some());
    Ok(match failures.count() {
        0 => ExitCode::SUCCESS,
        count => {
            eprintln!("compare: {count} pulls failed");
            ExitCode::FAILURE
        }
    })
}

impl Output {
    fn print(&self, report: &Report) -> anyhow::Result<()> {
        let against = self.against.as_deref();
        let against = against.or_else(|| report.names().find(|name| *name == "longshore"));
        let against = against.or_else(|| report.names().next());
        print!("{}", table::markdown(report, against.unwrap_or("nobody")));
        if let Some(file) = &self.svg {
            fs::write(file, chart::svg(report))
                .with_context(|| format!("can't write {}", file.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
