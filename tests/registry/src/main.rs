//! A test registry for the command line: `make` makes images, and `serve` serves them, slowly or with faults
//! if requested.
//!
//! ```console
//! $ cargo run -p test-registry -- make layout:latest --random 5x10M
//! $ cargo run -p test-registry -- serve layout --fault 'blob#2:cut=half*1'
//! listening on 127.0.0.1:40123
//! $ skopeo inspect --tls-verify=false docker://127.0.0.1:40123/image:latest
//! ```

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser};
use tokio::signal::unix::{SignalKind, signal};

use test_registry::auth::Auth;
use test_registry::fault::Fault;
use test_registry::format::Compression;
use test_registry::image::ImageBuilder;
use test_registry::server::{Options, Registry};
use test_registry::units::parse_size;

/// A test registry: makes container images, and serves them with faults.
#[derive(Parser)]
#[command(name = "registry")]
enum Command {
    Serve(Serve),
    Make(Make),
}

/// Serves the images of an OCI image layout until it is interrupted.
#[derive(Args)]
struct Serve {
    /// The directory of the layout.
    dir: PathBuf,
    /// The address to listen at; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Delay the headers of every reply by this many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    ttfb: u64,
    /// Send at most this many bytes per second of each body; K, M and G are understood.
    #[arg(long, value_name = "BYTES_PER_S", value_parser = parse_size)]
    bandwidth: Option<u64>,
    /// Add a fault: TARGET:KIND[*TIMES], such as `blob#3:cut=half*2`; see `fault_text.rs` for all of them.
    /// The first one that matches a request and is not used up applies.
    #[arg(long = "fault", value_name = "SPEC")]
    faults: Vec<Fault>,
    /// Print each request to the standard error.
    #[arg(long)]
    print_requests: bool,
    /// Require a user's name and password, or make `/token` require them.
    #[arg(long, value_name = "USER:PASSWORD", value_parser = parse_credentials)]
    basic_auth: Option<(String, String)>,
    /// Require a bearer token, which `/token` returns.
    #[arg(long, value_name = "TOKEN")]
    bearer: Option<String>,
    /// Make `/token` accept this refresh token, too.
    #[arg(long, value_name = "TOKEN", requires = "bearer")]
    refresh_token: Option<String>,
}

/// Makes an image with one layer for each source, and adds it to an OCI image layout.
#[derive(Args)]
struct Make {
    /// The directory of the layout and the image's tag, by default `latest`.
    #[arg(value_name = "LAYOUT[:TAG]")]
    target: String,
    /// What the layers are made from: directories, .tar files, or .tar.gz files.
    #[arg(value_name = "SOURCE", required_unless_present = "random")]
    sources: Vec<PathBuf>,
    /// Add layers of bytes that do not compress: 5x10M adds 5 layers of 10 MiB.
    #[arg(long, value_name = "COUNTxSIZE", value_parser = parse_random)]
    random: Option<(u64, u64)>,
    /// The seed of the bytes of the first random layer; each further layer uses the next number.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "random")]
    seed: u64,
    /// How to compress the layers; .tar.gz files are used unchanged.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Serve(serve) => serve.run().await,
        Command::Make(make) => make.run(),
    }
}

impl Serve {
    async fn run(self) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        if !self.dir.join("index.json").is_file() {
            bail!("{} is not an OCI image layout", self.dir.display());
        }
        let listen = self.listen;
        let registry = Registry::start(self.dir.clone(), self.into_options())
            .with_context(|| format!("cannot listen at {listen}"))?;
        println!("listening on {}", registry.addr());
        stdout().flush()?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    }

    fn into_options(self) -> Options {
        Options {
            listen: self.listen,
            ttfb: Duration::from_millis(self.ttfb),
            bandwidth: self.bandwidth,
            faults: self.faults,
            auth: Auth {
                basic: self.basic_auth,
                bearer: self.bearer,
                refresh_token: self.refresh_token,
            },
            print_requests: self.print_requests,
        }
    }
}

impl Make {
    fn run(self) -> anyhow::Result<()> {
        let (layout, tag) = split_target(&self.target);
        let mut image = ImageBuilder::new().compression(self.compression);
        for source in &self.sources {
            image = add_source(image, source)?;
        }
        let (count, size) = self.random.unwrap_or((0, 0));
        for number in 0..count {
            image = image.layer_random(size, self.seed.wrapping_add(number));
        }
        let written = image
            .write(layout, tag)
            .with_context(|| format!("cannot make {}", self.target))?;
        println!("{}", written.manifest_digest);
        Ok(())
    }
}

fn add_source(image: ImageBuilder, source: &Path) -> anyhow::Result<ImageBuilder> {
    let name = source.to_string_lossy();
    if source.is_dir() {
        Ok(image.layer_dir(source))
    } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        let bytes = std::fs::read(source).with_context(|| format!("cannot read {name}"))?;
        Ok(image.layer_tar_gz(bytes))
    } else if source
        .extension()
        .is_some_and(|extension| extension == "tar")
    {
        Ok(image.layer_tar(source))
    } else {
        bail!("{name} is not a directory, a .tar file or a .tar.gz file")
    }
}

/// Splits `LAYOUT:TAG`, or a layout alone. A tag contains no slashes, but a path may contain colons.
fn split_target(target: &str) -> (&str, &str) {
    match target.rsplit_once(':') {
        Some((layout, tag)) if !tag.contains('/') => (layout, tag),
        _ => (target, "latest"),
    }
}

fn parse_random(text: &str) -> Result<(u64, u64), String> {
    let (count, size) = text
        .split_once('x')
        .ok_or_else(|| format!("{text:?} is not COUNTxSIZE, such as 5x10M"))?;
    let count = count
        .parse()
        .map_err(|_| format!("{count:?} is not a number of layers"))?;
    Ok((count, parse_size(size)?))
}

fn parse_credentials(text: &str) -> Result<(String, String), String> {
    let (user, password) = text
        .split_once(':')
        .ok_or("it takes a user's name and a password, with a colon between them")?;
    Ok((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_make_has_a_tag_or_gets_one() {
        assert_eq!(split_target("layout:v1"), ("layout", "v1"));
        assert_eq!(split_target("layout"), ("layout", "latest"));
        assert_eq!(split_target("/a:b/layout"), ("/a:b/layout", "latest"));
    }

    #[test]
    fn random_layers_have_a_number_and_a_size() {
        assert_eq!(parse_random("5x10K"), Ok((5, 10 * 1024)));
        for text in ["5", "x", "5x", "ax1"] {
            assert!(parse_random(text).is_err(), "{text:?}");
        }
    }
}
