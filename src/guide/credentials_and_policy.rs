//! How to log in at registries, and how to accept only images that somebody has signed.
//!
//! After this guide you know where credentials come from and who can see them, and you can make sure that a signature policy
//! is really checked.
//!
//! This crate implements neither logins nor signatures. skopeo does both, by the settings of the system that podman and
//! buildah use as well. This crate passes settings on. It is an error if registries.conf makes skopeo ignore
//! credentials that you give, or if skopeo would not check a policy that you name. In two cases there is only a warning
//! in the log: an `authfile` that skopeo ignores because of `credential-helpers` in registries.conf, and the system's
//! policy with a skopeo before 1.13. If the credentials are for another registry than that of the image, there is
//! neither an error nor a warning. With [`skopeo_cmd`](crate::ImageProxyConfig#structfield.skopeo_cmd), this crate does
//! not check whether skopeo uses the credentials.
//!
//! # Credentials: what is used without any option
//!
//! After `podman login`, `skopeo login` or `docker login`, a pull works. skopeo looks into the usual auth files
//! (containers-auth.json(5)), and asks credential helpers if registries.conf names some.
//! [`auth_files`](crate::ImageProxyConfig::auth_files) returns the files, and `longshore doctor` prints them.
//!
//! # Credentials from your program
//!
//! | you have | use |
//! | --- | --- |
//! | a user and a password, for one registry | [`Credentials::password`](crate::Credentials::password) |
//! | a token that `docker login` stores as `identitytoken` | [`Credentials::identity_token`](crate::Credentials::identity_token) |
//! | an auth file with another path | [`authfile`](crate::ImageProxyConfig#structfield.authfile) |
//! | the content of an auth file, such as a secret of Kubernetes (`.dockerconfigjson`) | [`auth_data`](crate::ImageProxyConfig#structfield.auth_data) |
//! | nothing, and want to be sure that nothing is used | [`auth_anonymous`](crate::ImageProxyConfig#structfield.auth_anonymous) |
//!
//! ```
//! use longshore::{Credentials, ImageProxyConfig};
//!
//! # fn password() -> String { "hunter2".into() }
//! let credentials = Credentials::password("registry.example.com", "ci", &password());
//! let config = ImageProxyConfig::default().credentials(credentials);
//! // `Debug` shows no secret, so a configuration can be logged.
//! assert!(!format!("{config:?}").contains("hunter2"));
//! ```
//!
//! Use only one of these methods. With two of them, [`Fetcher::new`](crate::Fetcher::new) returns an error before a
//! process is started:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use longshore::{ConfigError, Error, FetchOptions, Fetcher, ImageProxyConfig};
//!
//! let config = ImageProxyConfig::default().authfile("auth.json").auth_anonymous(true);
//! let error = Fetcher::new(config, FetchOptions::default()).await.err();
//! assert!(matches!(error, Some(Error::Config(ConfigError::Conflict { .. }))));
//! # }
//! ```
//!
//! # Who can see a secret
//!
//! - skopeo gets the secret in a sealed memory file: not on its command line, not in its environment, not on a disk.
//!   skopeo itself reads an auth file that you name by its path. This crate also reads the file, to find out whether it
//!   mentions the registry, and keeps nothing of it.
//! - The programs that skopeo starts inherit the memory file: credential helpers, and gpg.
//! - Processes of the same user can open the memory file, as they can open that user's auth files.
//! - This crate wipes its own copy, and writes none to logs, events or errors.
//!
//! A ready-made *bearer* token can't be given, because skopeo takes one only on its command line, where every user of the
//! machine can read it. On the command line of `longshore`, prefer `--creds-file FILE` or `--creds -` for the same reason.
//!
//! A wrapper that starts skopeo elsewhere, such as `systemd-run`, does not pass on a memory file. Use an auth file there.
//!
//! # Wrong passwords
//!
//! Some registries lock an account after a few wrong passwords. So while there may be credentials that no call has
//! confirmed, one proxy opens one image, and the others wait. The refusal is typed:
//!
//! ```no_run
//! # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
//! use longshore::RefusalKind;
//!
//! match fetcher.open("docker://registry.example.com/team/app:1").await {
//!     Err(error) if error.kind() == Some(RefusalKind::Unauthorized) => println!("log in first"),
//!     Err(error) if error.kind() == Some(RefusalKind::Denied) => println!("this account may not"),
//!     opened => drop(opened?),
//! }
//! # Ok(()) }
//! ```
//!
//! Some registries answer *denied* also for an image that does not exist.
//!
//! # TLS
//!
//! For a registry with a certificate of your own, put the authority's `*.crt` into a folder, and give
//! [`certificate_directory`](crate::ImageProxyConfig#structfield.certificate_directory).
//! [`insecure_skip_tls_verification`](crate::ImageProxyConfig#structfield.insecure_skip_tls_verification) accepts any
//! certificate, and plain HTTP: for a registry on the same machine, in tests.
//! [`require_tls_verification`](crate::ImageProxyConfig#structfield.require_tls_verification) overrules an `insecure =
//! true` in registries.conf.
//!
//! # The signature policy
//!
//! A policy (containers-policy.json(5)) says which images are accepted. This one accepts images of one repository if they are
//! signed with a key, and nothing else:
//!
//! ```json
//! {
//!   "default": [{ "type": "reject" }],
//!   "transports": {
//!     "docker": {
//!       "registry.example.com/team": [
//!         { "type": "sigstoreSigned", "keyPath": "/etc/pki/team.pub", "signedIdentity": { "type": "matchRepository" } }
//!       ]
//!     }
//!   }
//! }
//! ```
//!
//! Signatures of this type (cosign's) are stored beside the image. skopeo reads them only if registries.d says so:
//!
//! ```yaml
//! docker:
//!   registry.example.com/team:
//!     use-sigstore-attachments: true
//! ```
//!
//! ```no_run
//! # async fn example() -> longshore::Result<()> {
//! use longshore::{FetchOptions, Fetcher, ImageProxyConfig, RefusalKind};
//!
//! let config = ImageProxyConfig::default()
//!     .policy("/etc/team/policy.json")
//!     .registries_d("/etc/team/registries.d");
//! let fetcher = Fetcher::new(config, FetchOptions::default()).await?;
//! match fetcher.open("docker://registry.example.com/team/app:1").await {
//!     Ok(image) => assert!(image.policy_checked()),
//!     Err(error) if error.kind() == Some(RefusalKind::Policy) => println!("not signed: {error}"),
//!     Err(error) => return Err(error),
//! }
//! # Ok(()) }
//! ```
//!
//! # Make sure that the policy is checked
//!
//! A skopeo before 1.13 accepts every image, whatever the policy says. So there are three cases:
//!
//! | the policy is | with a skopeo before 1.13 |
//! | --- | --- |
//! | named by [`policy`](crate::ImageProxyConfig#structfield.policy) | an error |
//! | the system's, with [`require_policy`](crate::ImageProxyConfig#structfield.require_policy) | an error |
//! | the system's, without `require_policy` | ignored, with a warning in the log if the policy may refuse images |
//!
//! - [`restricts_images`](crate::ImageProxyConfig::restricts_images) says whether the policy in force may refuse anything. The
//!   policy that Debian installs accepts everything.
//! - [`Image::policy_checked`](crate::Image::policy_checked) and [`Pulled::policy_unchecked`](crate::Pulled::policy_unchecked) say
//!   what happened.
//! - [`insecure_policy`](crate::ImageProxyConfig#structfield.insecure_policy) accepts everything. It is for tests.
//!
//! The policy is checked when an image is opened. [`fetch_source`](crate::Fetcher::fetch_source) and
//! [`list_tags`](crate::Fetcher::list_tags) open none. With [`open_index`](crate::Fetcher::open_index), each image of the index is
//! opened and checked. The policy is not checked for the index itself.
//!
//! A policy with gpg keys makes skopeo run gpg with a temporary folder. If such a skopeo is killed, the folder
//! and gpg's agent are left. [`may_ask_gpg`](crate::ImageProxyConfig::may_ask_gpg) returns whether the policy
//! has such keys.
//!
//! # What no signature says
//!
//! Bytes are verified against the digests of the manifest. A registry can move a tag to any image: name a digest
//! (`docker://registry.example.com/team/app@sha256:...`), or use a policy. longshore does not judge what is
//! *in* a layer, such as paths and set-uid files. The program that unpacks the layer must check it. `SECURITY.md` has
//! the whole table of who checks what.
