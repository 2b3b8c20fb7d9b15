//! The registry, in a process of its own.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use test_registry::image::ImageBuilder;
use test_registry::server::{Options, Registry};

/// An image at a registry. The registry ends when this is dropped, or when this process ends.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) reference: String,
    child: Child,
}

/// The arguments of the other process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) blobs: u64,
    pub(crate) size: u64,
    /// The delay of each answer, in milliseconds.
    pub(crate) ttfb: u64,
    /// The maximum number of bytes per second of each body.
    pub(crate) bandwidth: Option<u64>,
}

impl Served {
    pub(crate) fn start(order: Order) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--serve");
        let options = [
            ("--blobs", Some(order.blobs)),
            ("--size", Some(order.size)),
            ("--ttfb", Some(order.ttfb)),
            ("--bandwidth", order.bandwidth),
        ];
        for (option, value) in options {
            if let Some(value) = value {
                command.args([option, &value.to_string()]);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let reference = BufReader::new(stdout).lines().next();
        Ok(Self {
            reference: reference.context("the registry ended at once")??,
            child,
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The other process exits when its stdin ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Makes an image, and serves it until stdin ends. The other process runs this.
pub(crate) async fn serve(order: Order) -> anyhow::Result<()> {
    let layout = tempfile::tempdir()?;
    let image = (0..order.blobs).fold(ImageBuilder::new(), |image, seed| {
        image.layer_random(order.size, seed)
    });
    image.write(layout.path(), "latest")?;
    let options = Options {
        ttfb: Duration::from_millis(order.ttfb),
        bandwidth: order.bandwidth,
        ..Options::default()
    };
    let registry = Registry::start(layout.path(), options)?;
    println!("{}", registry.reference("latest"));
    let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
    ended.await??;
    Ok(())
}
