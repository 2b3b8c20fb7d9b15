//! The command: arguments in, exit code out.

mod args;
mod children;
mod failure;
mod format;
mod inspect;
mod progress;
mod pull;
mod secret;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use longshore::ImageProxyConfig;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::args::{Arguments, Command};
use self::children::Children;
use self::failure::Failure;

/// As a shell reports a program that a signal ended: 128 and its number.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// How long to wait at the end for file operations that are under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for skopeos that may have a temporary folder. They remove it
/// when they end, but die when we do; those that don't end get `SIGTERM` within
/// that.
const CLEANING_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn main() -> ExitCode {
    // clap itself exits: with 2 for wrong usage, with 0 for --help.
    let Arguments { verbose, command } = Arguments::parse();
    log_to_stderr(verbose);
    // While Ctrl-C still ends the process at once: this may wait for somebody
    // to type a password.
    let config = match command.proxy_config(verbose) {
        Ok(config) => config,
        Err(failure) => return failure.report(),
    };
    let children = Children::from_now();
    let untidy = command.unpacks_archives() || config.may_ask_gpg();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(),
    };
    let code = runtime.block_on(async {
        tokio::select! {
            // Its handlers must be there before there is something to interrupt.
            biased;
            code = interrupted() => code,
            done = run(command, config) => match done {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => failure.report(),
            },
        }
    });
    // What still runs is dropped, and with it what is not complete; a disk that
    // hangs is not waited for.
    runtime.shutdown_timeout(SHUTDOWN_PATIENCE);
    if untidy {
        children.wait_for_all(CLEANING_PATIENCE);
    }
    children.end_all();
    code
}

async fn run(command: Command, config: ImageProxyConfig) -> Result<(), Failure> {
    match command {
        Command::Pull(arguments) => pull::run(arguments, config).await,
        Command::Inspect(arguments) => inspect::run(arguments, config).await,
    }
}

/// Give it up if it takes longer than that.
async fn within<T>(
    deadline: Option<Duration>,
    work: impl Future<Output = longshore::Result<T>>,
) -> longshore::Result<T> {
    match deadline {
        None => work.await,
        Some(most) => tokio::time::timeout(most, work)
            .await
            .unwrap_or(Err(longshore::Error::DeadlineExceeded)),
    }
}

/// Ctrl-C, or a polite request to end.
async fn interrupted() -> ExitCode {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        // Without handlers, the signals do what they do.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {
            eprintln!("longshore: interrupted");
            ExitCode::from(INTERRUPTED)
        }
        _ = terminate.recv() => {
            eprintln!("longshore: terminated");
            ExitCode::from(TERMINATED)
        }
    }
}

/// `RUST_LOG` chooses; without it, `-v` shows debug messages of ours.
fn log_to_stderr(verbose: bool) {
    let filter = match EnvFilter::try_from_default_env() {
        Ok(filter) => filter,
        Err(_) if verbose => EnvFilter::new("longshore=debug"),
        Err(_) => EnvFilter::new("off"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
