//! The arguments of `longshore list-tags`.

use clap::Args;

use super::headings::OUTPUT;
use super::proxy::SourceArguments;
use super::reference::{check_name, repository_of, transport_of};

const EXAMPLES: &str = "\
Example:
  longshore list-tags docker://quay.io/fedora/fedora";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListTagsArguments {
    /// Repository: docker://HOST/NAME
    #[arg(value_parser = repository)]
    pub(crate) repository: String,
    /// Print one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

/// Checks that the repository is at a registry, and has neither a tag nor a digest.
fn repository(text: &str) -> Result<String, String> {
    if let Some(name) = text.strip_prefix("docker://") {
        check_name(name)?;
    }
    if let Some(name) = repository_of(text).filter(|name| *name != text) {
        return Err(format!(
            "a repository is docker://HOST/NAME without a tag or a digest; did you mean {name}?"
        ));
    }
    match (text.strip_prefix("docker://"), transport_of(text)) {
        (Some(name), _) if !name.is_empty() => Ok(text.to_owned()),
        (Some(_), _) => Err("a repository is docker://HOST/NAME".into()),
        (None, Some(transport)) if transport != "docker" => {
            Err("only a registry lists tags: docker://HOST/NAME".into())
        }
        (None, _) => Err(format!(
            "a repository is docker://HOST/NAME; did you mean docker://{text}?"
        )),
    }
}
