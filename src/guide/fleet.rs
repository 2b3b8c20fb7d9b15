//! What to do when one machine is not enough: many machines that pull the same images, or a list that is too long for one.
//!
//! After this guide you can put a cache in front of a registry for a whole fleet, mirror a list every hour, pull images onto all nodes of
//! a cluster before they are needed, and share a list among machines.
//!
//! This crate has no server and no protocol between machines, because other programs have what a fleet needs:
//! registries have caches, and schedulers have retries. The files of this guide are in the folder `examples/fleet`, to
//! be copied.
//!
//! # Which way
//!
//! | you have | do this |
//! | --- | --- |
//! | many machines that pull the same images | a pull-through cache or a peer-to-peer mirror, named in registries.conf |
//! | one copy of many images, kept up to date | a list and a timer on one machine |
//! | images that must be on each node before they are needed | a `DaemonSet` that pulls them |
//! | a list that takes one machine too long | the list in parts, one for each job of a scheduler |
//!
//! # A cache in front of the registry
//!
//! A pull-through cache is a registry that fetches from another one what it does not have: distribution
//! (`proxy.remoteurl` in its configuration), Harbor, Artifactory, and the registries of cloud providers. A peer-to-peer
//! mirror (Dragonfly, Kraken, Spegel) is an agent on each machine that speaks the protocol of a registry, and gets
//! blobs from its peers.
//!
//! Both are used in the same way. skopeo reads registries.conf, so this crate and the command use a mirror without an
//! option. From `examples/fleet/registries.conf`:
//!
//! ```text
//! [[registry]]
//! prefix = "docker.io"
//! location = "docker.io"
//!
//! [[registry.mirror]]
//! # A pull-through cache, or the peer-to-peer agent of this machine.
//! location = "mirror.example.com:5000"
//! ```
//!
//! Images keep their names, so signature policies, which apply to names, stay in force. Every blob is verified here. So
//! a mirror can't change an image that is named by its digest, but it decides what a tag names. With
//! `pull-from-mirror = "digest-only"` (containers-registries.conf(5)), the mirror is not asked for tags: the registry
//! itself answers.
//! skopeo reads an image from one place, so the layers of an image that is named by its tag then come from the registry,
//! too. Name images by digest to take their layers from such a mirror.
//!
//! Four things to know:
//!
//! - **Limits apply to the host in the name**, not to the mirror, because skopeo does not report which of them it asks.
//!   An image of docker.io is therefore fetched by one proxy, also from a mirror, unless you set
//!   [`proxies_per_host`](crate::FetchOptions#structfield.proxies_per_host), or `--proxies 1-16` on the command line.
//! - **Each proxy is a client of its own.** A pull with 8 proxies asks the mirror for the manifest 8 times or more.
//! - **If the mirror fails before an image is opened**, skopeo opens the image at the registry itself. A proxy that has
//!   opened the image already goes on asking the mirror. So a pull that is under way may fail; run it again.
//! - **Credentials** for the mirror come from the auth file, under the mirror's name. [`Credentials`](crate::Credentials) are for one
//!   registry only, and are not sent to a mirror.
//!
//! A program can have a file of its own, instead of the system's:
//!
//! ```
//! use longshore::ImageProxyConfig;
//!
//! let config = ImageProxyConfig::default().registries_conf("/etc/team/registries.conf");
//! // The files that skopeo will read, of those that exist.
//! println!("{:?}", config.registries_files());
//! ```
//!
//! # A mirror every hour
//!
//! A service of systemd pulls a list, and a timer starts the service. From `examples/fleet/longshore-mirror.service`:
//!
//! ```text
//! LoadCredential=auth.json:/etc/longshore/auth.json
//! ExecStart=/usr/local/bin/longshore pull --json --deadline 50m --authfile %d/auth.json --from /etc/longshore/images.txt oci:/var/lib/mirror/images
//! # A little more than the deadline, so that longshore itself ends the pull and says why.
//! TimeoutStartSec=55min
//! ```
//!
//! From `examples/fleet/longshore-mirror.timer`:
//!
//! ```text
//! OnCalendar=hourly
//! # Machines of a fleet begin at different moments.
//! RandomizedDelaySec=10min
//! Persistent=true
//! ```
//!
//! systemd does not start a service that still runs, so there is only one run at a time. (The layout would allow
//! several.) A run fetches what is missing, and exits with 1 if an image failed. The object that `--json` prints is in
//! the journal, and names the images that failed.
//!
//! # Images on each node
//!
//! A `DaemonSet` pulls a list in an init container, and then only waits. From `examples/fleet/pre-pull.yaml`:
//!
//! ```text
//!       initContainers:
//!         - name: longshore
//!           image: IMAGE-WITH-LONGSHORE-AND-SKOPEO
//!           command: [longshore, pull, --json, --proxies, 1-4, --from, /lists/images.txt, oci:/images]
//!           resources:
//!             requests: { cpu: 500m, memory: 256Mi }
//!             limits: { memory: 1Gi }
//! ```
//!
//! - The lists and the registries.conf are config maps. A node that restarts the pod fetches what is missing.
//! - `--proxies 1-4` bounds the memory: each proxy is a process.
//! - All nodes pull the same, so name a mirror in the registries.conf, or the registry sends each layer once for each node.
//! - The result is an OCI layout in `/var/lib/longshore` of the node, for programs that read layouts. The container runtime has a store of its
//!   own. On a node, `skopeo copy oci:/var/lib/longshore:NAME containers-storage:NAME` puts an image into that of CRI-O and podman.
//!
//! # A list in parts
//!
//! `longshore pull --from LIST --shard I/N` takes one of N parts. The part of an image follows from the SHA-256 of its reference, so the machines
//! need not know of each other. An indexed job of Kubernetes hands out the numbers. From `docs/sharding.md`:
//!
//! ```text
//!             - exec longshore pull --json --from /lists/images.txt --shard "$JOB_COMPLETION_INDEX/8" "oci:/mirror/$JOB_COMPLETION_INDEX"
//! ```
//!
//! `docs/sharding.md` has the whole job, and the lines for Slurm and GNU parallel.
//!
//! In a program, choose the part before [`pull_many`](crate::Fetcher::pull_many). Any rule that depends only on the
//! reference works:
//!
//! ```
//! use longshore::ImageRequest;
//!
//! /// The images of one part of a list. The sum is FNV-1a, which is the same on each machine and in each version.
//! fn part(list: &[&str], index: u64, of: u64) -> Vec<ImageRequest> {
//!     let sum = |text: &str| {
//!         text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
//!             (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
//!         })
//!     };
//!     let ours = list.iter().filter(|reference| sum(reference) % of == index);
//!     ours.map(|reference| ImageRequest::new(*reference)).collect()
//! }
//!
//! let list = ["docker://quay.io/a/b:1", "docker://quay.io/a/c:1", "docker://quay.io/a/d:1"];
//! let parts: Vec<_> = (0..2).map(|index| part(&list, index, 2)).collect();
//! assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), list.len());
//! ```
//!
//! On a single machine, one pull of the whole list is faster than several pulls of its parts: it fetches each shared
//! layer once.
//!
//! # What was tried
//!
//! One image of 20 layers of 1 MB and a config was pulled through docker-registry 2.8.2 as a pull-through cache,
//! with skopeo 1.9.3, everything on one machine (2026-11-28, 2 processors). These are the counts in the access log
//! of the origin:
//!
//! | pulls | `GET`s of blobs | `GET`s of each blob | `HEAD`s of manifests |
//! | --- | ---: | ---: | ---: |
//! | 8 at once, empty cache | 172 | 2 to 14 | 59 |
//! | 8 at once, full cache | 0 | 0 | 62 |
//! | 1, empty cache | 42 | 2 | 8 |
//! | 8 at once, after one pull | 0 | 0 | 46 |
//! | 1, without the cache | 21 | 1 | 0 |
//!
//! So this cache fetches a blob twice, once to store it and once to send it on, and more often if several clients ask
//! before it is stored. It asks the origin for each manifest, because a tag may have moved. **Fill such a cache by one
//! pull before the fleet begins**: by the command, or by a pull into [`Discard`](crate::Discard). Other caches may need
//! fewer requests; count them before you rely on a cache. When the cache was stopped, a pull from the origin succeeded.
//!
//! `tests/command/fleet.rs` repeats this with three skopeos and `examples/fleet/registries.conf`, in which it replaces the hosts:
//!
//! | pulls | result, besides complete layouts |
//! | --- | --- |
//! | one, then 8 at once | the origin sends each blob at most twice, both times for the first pull; no pull asks the origin itself |
//! | 8 at once, empty cache | the origin sends each blob at most twice for each pull, so 16 times; no pull asks the origin itself |
//! | one by tag, then one by digest, `digest-only` | only the second one asks the mirror |
//! | 8 at once, the cache is down | the origin sends each blob once for each pull |
//!
//! The units passed `systemd-analyze verify`; the `DaemonSet` and the job of `docs/sharding.md` fit the schema of Kubernetes 1.37. Neither they
//! nor a peer-to-peer mirror have been run in a real fleet. `longshore pull --from LIST --shard I/N` has a test, with a list in three parts (`tests/command/lists.rs`).
