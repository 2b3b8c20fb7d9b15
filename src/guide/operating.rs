//! How to run longshore in production: memory, descriptors, logs, events, exit codes, and what happens when something
//! is killed.
//!
//! After this guide you can size a machine or a container for pulls, watch them, and know what a crash leaves behind.
//!
//! # Before the first pull
//!
//! `longshore doctor` says which skopeo was found, what works with it, and which policy, settings and limits apply.
//! `longshore doctor IMAGE` also opens an image, and times each call. Exit code 1 means that pulls can't work.
//!
//! # Memory
//!
//! Memory does not grow with the size of layers. Per pull, it consists of this:
//!
//! | what | how much |
//! | --- | --- |
//! | buffers of a layout | for each large blob in flight: 1 MiB if at most 8 blobs are being stored when it begins, less if there are more, and 256 KiB if there are 32 or more. If 32 begin together, they need up to 19 MiB in total |
//! | pipes, in the kernel | 512 KiB for each blob in flight, 32 by default |
//! | documents | [`max_documents_bytes`](crate::FetchOptions#structfield.max_documents_bytes), 64 MiB (in `pull_many`, for each request); parsed, several times as much. Usual images have 4 to 20 kB |
//! | zstd, where layers are decompressed | one window for each layer that is being decompressed: [`max_zstd_window`](crate::FetchOptions#structfield.max_zstd_window), 32 MiB |
//! | events that nobody reads | about 500 bytes each |
//! | the skopeo processes | the memory of up to 16 processes for a registry (32 while answers are late). Pulls of one fetcher that run at the same time have one process each, and 32 more together |
//!
//! Measured, this process without its children: 14.5 MiB for 2.1 GB in 40 layers with the default options, and 28.9 MiB with 16 proxies
//! (`benches/RESULTS.md`, *Memory*). In a container, add the skopeos, and set
//! [`proxies`](crate::FetchOptions#structfield.proxies) to a number that the limit allows.
//!
//! # Descriptors
//!
//! A pull claims 4 file descriptors for each blob in flight, 8 for each proxy, and 8 for the rest. The usual limit of
//! 1,024 (`RLIMIT_NOFILE`) suffices for one pull with the default options, which claims 264. Pulls that run at the same
//! time share the limit: each of them claims at least 20, for one proxy and one blob, and more when others end. The
//! limit should be at least 40 for each of these pulls, plus the number of descriptors that the program itself needs.
//! With less, pulls may fail with `Too many open files`. A program with many connections of its own should raise the
//! limit, because its own descriptors are counted only when a pull begins.
//!
//! # Logs
//!
//! The library logs through `tracing`, with targets that begin with `longshore`, and without secrets: warnings, such as a policy that is
//! not checked, and debug messages, such as a proxy that ended. `RUST_LOG=longshore=debug` selects them in the command; `-v` is
//! the short form, and `-vv` adds what skopeo logs.
//!
//! # Events
//!
//! Make metrics from events, not from logs. Events are typed, belong to one pull, and never delay it:
//!
//! ```no_run
//! # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
//! use longshore::{EventKind, Events, OciLayout};
//!
//! let (events, mut stream) = Events::channel();
//! let fetcher = fetcher.with_events(events);
//! let counting = tokio::spawn(async move {
//!     let (mut retries, mut lost_proxies) = (0_u64, 0_u64);
//!     while let Some(event) = stream.recv().await {
//!         match event.kind {
//!             EventKind::BlobRetried { blob, reason, wait, .. } => {
//!                 retries += 1;
//!                 eprintln!("{}: retry in {wait:?}: {reason}", blob.digest);
//!             }
//!             EventKind::ProxyEnded { reason: Some(_), .. } => lost_proxies += 1,
//!             _ => {}
//!         }
//!     }
//!     (retries, lost_proxies)
//! });
//! let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
//! fetcher.pull(&image, OciLayout::new("fedora", None)).await?;
//! println!("{:?}", counting.await);
//! # Ok(()) }
//! ```
//!
//! The events end with the pull. For the next pull, make another pair. From the command, `--events FILE` writes them, one JSON object a line; `-`
//! is stdout.
//!
//! Watch these: retries for each pull (a registry or a network that gets worse), proxies that ended with a reason (a skopeo that
//! crashes, or the kernel's out-of-memory killer), and the time from [`BlobRequested`](crate::EventKind::BlobRequested) to
//! [`BlobOpened`](crate::EventKind::BlobOpened), which is the latency of the registry.
//!
//! # Exit codes of the command
//!
//! | code | meaning | what a scheduler should do |
//! | --- | --- | --- |
//! | 0 | everything is there | |
//! | 1 | something failed; of a list, at least one image | run it again: it fetches what is missing |
//! | 2 | wrong usage | do not run it again |
//! | 129, 130, 143 | SIGHUP, SIGINT or SIGTERM | run it again |
//!
//! `--json` prints one object at the end: the images with their digests, the failed ones with their errors, bytes,
//! retries, and the peak memory of this process. Its field `version` changes when a field changes its meaning or is
//! removed. `docs/json.md` describes this object, and those of the other commands.
//!
//! # Limits in time
//!
//! Nothing waits without a limit by default, but a pull as a whole may take long. For a scheduler, set `--deadline` a
//! little below its own limit: it is for the whole command. The error then says what happened, and nothing is killed in
//! the middle. In a program, [`RetryPolicy::deadline`](crate::RetryPolicy#structfield.deadline) limits each step, such
//! as opening an image or pulling its layers, and [`pull_many`](crate::Fetcher::pull_many) as a whole. Time in which
//! this process was stopped, such as by a frozen container, counts as neither stall nor slow call.
//!
//! # What kills leave behind
//!
//! | killed | what happens | left behind |
//! | --- | --- | --- |
//! | this process, by SIGTERM or Ctrl-C (the command) | the pull is dropped, skopeos are ended | incomplete files are removed, complete blobs stay |
//! | this process, by SIGKILL | the kernel kills the skopeos | complete blobs, and a staging folder that the next pull removes |
//! | a skopeo | its blobs are retried on another proxy, and it is replaced | nothing |
//! | the machine (loss of power) | the pull ends | a valid layout: blobs are synced before they get their names |
//!
//! A staging folder is called `.longshore-...`. It is removed when no process holds its lock. If another host made it,
//! or this host before a restart, it must also be a day old. The file `.longshore.lock` stays. Several pulls may write
//! into one layout at the same time, from several hosts if the file system shares locks.
//!
//! If a policy has gpg keys, skopeo has a temporary folder while it opens an image. The command waits up to 10 s at its
//! end for skopeo to remove it. If systemd (`KillMode`) or a container runtime kills skopeo sooner, the folder is left.
//!
//! # The outcome of faults
//!
//! `tests/command/faults/FAULTS.md` lists the outcome of more than a hundred faults with each of three skopeos. The
//! test that causes these faults writes this file.
