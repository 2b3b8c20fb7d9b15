//! A command that is ready to run.

use longshore::{ImageProxyConfig, Platforms};

#[cfg(feature = "decompress")]
use super::args::ExportArguments;
use super::args::{
    BlobArguments, Command, CompletionsArguments, DigestArguments, DoctorArguments,
    InspectArguments, ListTagsArguments, ManArguments, PruneArguments, PullArguments,
    VerifyArguments,
};
use super::ending::{NextPull, Underway};
#[cfg(feature = "decompress")]
use super::export;
use super::failure::Failure;
use super::hint::Access;
use super::{blob, completions, digest, doctor, inspect, list_tags, man, prune, pull, verify};

/// A command whose list, credentials and other files have been read.
#[derive(Debug)]
pub(super) enum Task {
    Pull(PullArguments, ImageProxyConfig, bool),
    Inspect(InspectArguments, ImageProxyConfig),
    Digest(DigestArguments, ImageProxyConfig),
    Blob(BlobArguments, ImageProxyConfig),
    #[cfg(feature = "decompress")]
    Export(ExportArguments, ImageProxyConfig),
    Verify(VerifyArguments),
    Prune(PruneArguments),
    ListTags(ListTagsArguments, ImageProxyConfig),
    Doctor(DoctorArguments, ImageProxyConfig),
    Completions(CompletionsArguments),
    Man(ManArguments),
}

impl Task {
    /// Reads what a command needs before it can start. Blocks, perhaps until somebody has typed a password.
    pub(super) fn prepare(command: Command, verbose: u8) -> Result<Self, Failure> {
        match command {
            Command::Pull(mut arguments) => {
                arguments.read_list()?;
                let platform = match &arguments.platform {
                    Some(Platforms::One(platform)) => Some(platform),
                    _ => None,
                };
                let images = arguments.references();
                arguments.proxy.check_policy()?;
                let config = arguments.proxy.config(&images, platform, verbose > 1)?;
                Ok(Self::Pull(arguments, config, verbose > 0))
            }
            Command::Inspect(arguments) => {
                arguments.check()?;
                let (images, platform) = ([&*arguments.image], arguments.one_platform());
                arguments.proxy.check_policy()?;
                let config = arguments.proxy.config(&images, platform, verbose > 1)?;
                Ok(Self::Inspect(arguments, config))
            }
            Command::Digest(arguments) => {
                arguments.check()?;
                let (images, platform) = ([&*arguments.image], arguments.platform.as_ref());
                arguments.proxy.check_policy()?;
                let config = arguments.proxy.config(&images, platform, verbose > 1)?;
                Ok(Self::Digest(arguments, config))
            }
            Command::Blob(arguments) => {
                let config = arguments.fetch.config(&arguments.image, verbose > 1)?;
                Ok(Self::Blob(arguments, config))
            }
            #[cfg(feature = "decompress")]
            Command::Export(arguments) => {
                let config = arguments.fetch.config(&arguments.image, verbose > 1)?;
                Ok(Self::Export(arguments, config))
            }
            Command::Verify(arguments) => {
                arguments.check()?;
                Ok(Self::Verify(arguments))
            }
            Command::ListTags(arguments) => {
                let config = arguments
                    .source
                    .config(&[&arguments.repository], verbose > 1)?;
                Ok(Self::ListTags(arguments, config))
            }
            Command::Doctor(arguments) => {
                arguments.check()?;
                let (images, platform) = (arguments.images(), arguments.platform.as_ref());
                let config = arguments.proxy.config(&images, platform, verbose > 1)?;
                Ok(Self::Doctor(arguments, config))
            }
            Command::Prune(arguments) => {
                arguments.check()?;
                Ok(Self::Prune(arguments))
            }
            Command::Completions(arguments) => Ok(Self::Completions(arguments)),
            Command::Man(arguments) => Ok(Self::Man(arguments)),
        }
    }

    /// What this task has under way while it runs, for the messages about signals.
    pub(super) fn underway(&self) -> Underway {
        let (has_skopeo, folder) = match self {
            Self::Pull(arguments, ..) => (true, arguments.incomplete_in()),
            Self::Blob(arguments, _) => (true, arguments.output().folder()),
            #[cfg(feature = "decompress")]
            Self::Export(arguments, _) => (true, arguments.output().folder()),
            Self::Inspect(..) | Self::Digest(..) | Self::ListTags(..) | Self::Doctor(..) => {
                (true, None)
            }
            Self::Verify(_) | Self::Prune(_) | Self::Completions(_) | Self::Man(_) => (false, None),
        };
        Underway {
            has_skopeo,
            incomplete_in: folder,
            next_pull: match self {
                Self::Pull(arguments, ..) if arguments.keeps_layers() => NextPull::GoesOn,
                Self::Pull(..) => NextPull::Removes,
                _ => NextPull::Ignores,
            },
            has_temporary: self.may_leave_files(),
        }
    }

    /// Whether a skopeo of this task may have a temporary folder or child process when the task ends.
    fn may_leave_files(&self) -> bool {
        let is_archive = |image: &&str| {
            image.starts_with("oci-archive:") || image.starts_with("docker-archive:")
        };
        let (images, config) = match self {
            Self::Pull(arguments, config, _) => (arguments.references(), config),
            Self::Inspect(arguments, config) => (vec![&*arguments.image], config),
            Self::Digest(arguments, config) => (vec![&*arguments.image], config),
            Self::Blob(arguments, config) => (vec![&*arguments.image], config),
            #[cfg(feature = "decompress")]
            Self::Export(arguments, config) => (vec![&*arguments.image], config),
            Self::Doctor(arguments, config) => (arguments.images(), config),
            // These open no image, so they check no signatures.
            Self::ListTags(..)
            | Self::Verify(_)
            | Self::Prune(_)
            | Self::Completions(_)
            | Self::Man(_) => return false,
        };
        images.iter().any(is_archive) || config.may_ask_gpg()
    }

    /// How this task reaches its registry.
    pub(super) fn access(&self) -> Access {
        match self {
            Self::Pull(PullArguments { proxy, .. }, ..)
            | Self::Inspect(InspectArguments { proxy, .. }, _)
            | Self::Digest(DigestArguments { proxy, .. }, _)
            | Self::Doctor(DoctorArguments { proxy, .. }, _) => proxy.source.access(),
            Self::Blob(arguments, _) => arguments.fetch.proxy.source.access(),
            #[cfg(feature = "decompress")]
            Self::Export(arguments, _) => arguments.fetch.proxy.source.access(),
            Self::ListTags(ListTagsArguments { source, .. }, _) => source.access(),
            Self::Verify(_) | Self::Prune(_) | Self::Completions(_) | Self::Man(_) => {
                Access::default()
            }
        }
    }

    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            // Boxed, because the futures are large.
            Self::Pull(arguments, config, verbose) => {
                Box::pin(pull::run(arguments, config, verbose)).await
            }
            Self::Inspect(arguments, config) => Box::pin(inspect::run(arguments, config)).await,
            Self::Digest(arguments, config) => Box::pin(digest::run(arguments, config)).await,
            Self::Blob(arguments, config) => Box::pin(blob::run(arguments, config)).await,
            #[cfg(feature = "decompress")]
            Self::Export(arguments, config) => Box::pin(export::run(arguments, config)).await,
            Self::Verify(arguments) => verify::run(arguments).await,
            Self::Prune(arguments) => prune::run(arguments).await,
            Self::ListTags(arguments, config) => Box::pin(list_tags::run(arguments, config)).await,
            Self::Doctor(arguments, config) => Box::pin(doctor::run(arguments, config)).await,
            Self::Completions(arguments) => completions::run(arguments.shell).await,
            Self::Man(arguments) => man::run(arguments.folder).await,
        }
    }
}
