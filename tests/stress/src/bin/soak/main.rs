//! Pulls in a loop, with faults, kills and cancellations drawn at random. Checks every result, and that
//! nothing is left behind. Ends with a table, and with failure if anything was wrong.
//!
//! `cargo run --release -p longshore-stress --bin soak -- --minutes 30`
//!
//! glibc keeps memory for each thread that has ever used some, so resident memory grows for a while. It does
//! not with `MALLOC_ARENA_MAX=1` in the environment.

mod faults;
mod images;
mod plan;
mod pull;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fastrand::Rng;
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

use images::Images;
use longshore_stress::Usage;
use plan::Round;
use pull::Outcome;
use table::{IdleUsage, Table};

/// How soon idle threads end, so that they can be counted.
const IDLE_THREADS: Duration = Duration::from_millis(100);

/// How long it may take until everything that pulls have started has ended. Children that hang get `SIGTERM`,
/// and `SIGKILL` later.
const SETTLING: Duration = Duration::from_secs(30);

/// Pulls for some minutes under faults, kills and cancellations, and checks everything.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// The duration in minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Repeat the random choices of this seed. Timing is not repeated.
    #[arg(long)]
    seed: Option<u64>,
    /// A skopeo to pull with. If there are several, one is drawn for each pull.
    #[arg(long, default_value = "skopeo")]
    skopeo: Vec<PathBuf>,
    /// The stall timeout in seconds. Calls may take twice as long. A busy machine needs more.
    #[arg(long, default_value_t = 3.0)]
    stall_timeout: f64,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_keep_alive(IDLE_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(soak(arguments))
}

async fn soak(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let stall_timeout = Duration::try_from_secs_f64(arguments.stall_timeout)?;
    let images = Images::make()?;
    let layers: Vec<usize> = images
        .images
        .iter()
        .map(|image| image.layers.len())
        .collect();

    let end = Instant::now() + Duration::try_from_secs_f64(arguments.minutes * 60.0)?;
    let mut table = Table::default();
    let mut idle = IdleUsage::new();
    let mut problems = 0;
    let mut at_rest = None;
    while Instant::now() < end {
        let round = Round::draw(&mut rng, &arguments.skopeo, &layers, stall_timeout);
        let pulls = join_all(round.pulls.iter().map(|plan| pull::run(plan, &images)));
        let (outcomes, signals) = tokio::join!(Box::pin(pulls), send(&round.signals));
        table.signals += signals;
        for (plan, outcome) in round.pulls.iter().zip(outcomes) {
            let outcome = outcome?;
            table.add(plan, &outcome);
            problems += report(plan, &round, &outcome);
        }
        match settled(at_rest).await {
            Ok(usage) => {
                // The first round creates what stays for good.
                at_rest.get_or_insert(usage);
                idle.add(usage);
            }
            Err(left) => {
                problems += 1;
                eprintln!("LEAK {left}, after {round:#?}");
                break;
            }
        }
    }
    println!("\n{table}\n{idle}");
    if let Some(leak) = idle.leaks_memory() {
        problems += 1;
        eprintln!("LEAK {leak}");
    }
    if problems > 0 {
        println!("{problems} problems; the seed was {seed}");
        return Ok(ExitCode::FAILURE);
    }
    println!("all is well");
    Ok(ExitCode::SUCCESS)
}

fn report(plan: &plan::Plan, round: &Round, outcome: &Outcome) -> usize {
    for problem in &outcome.problems {
        eprintln!("PROBLEM {problem}\n  in {plan:?}");
        eprintln!("  with signals {:?}, {:?}", round.signals, outcome.summary);
    }
    outcome.problems.len()
}

/// Sends signals to children drawn at random, if there are any. Returns the number of signals sent.
async fn send(signals: &[(Duration, Signal)]) -> usize {
    let sent = signals.iter().map(|(after, signal)| async {
        sleep(*after).await;
        let children = longshore_stress::children();
        let Some(child) = fastrand::choice(children) else {
            return 0;
        };
        // The child may have ended on its own.
        usize::from(kill(Pid::from_raw(child), *signal).is_ok())
    });
    join_all(sent).await.into_iter().sum()
}

/// Waits until nothing is running, and there are no more resources than before.
///
/// # Errors
///
/// A description of the resources that are too many.
async fn settled(before: Option<Usage>) -> Result<Usage, String> {
    let until = Instant::now() + SETTLING;
    // After the first round, it is not known yet what stays. The lowest value within some time counts.
    let mut least = before;
    if before.is_none() {
        sleep(IDLE_THREADS * 10).await;
    }
    loop {
        let now = Usage::now();
        let limit = *least.get_or_insert(now);
        if now.children == 0 && now.fds <= limit.fds && now.threads <= limit.threads {
            return Ok(now);
        }
        if Instant::now() > until {
            let (fds, threads) = (now.fds, now.threads);
            return Err(format!(
                "{fds} fds, {threads} threads, {} children; at rest there were {} fds, {} threads",
                now.children, limit.fds, limit.threads
            ));
        }
        sleep(Duration::from_millis(10)).await;
    }
}
