//! The endpoints of the distribution API that a pull needs, and their correct answers.

use std::io;

use serde_json::json;
use tokio::io::AsyncSeekExt;

use super::http::{RangeOutside, parse_range};
use super::layout::{Layout, is_digest};
use super::reply::{Body, Reply};

/// The endpoint that a request's path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2/`: whether this is a registry, and which credentials it requires.
    Ping,
    /// `/v2/NAME/manifests/REFERENCE`, with the tag or digest of the manifest.
    Manifest(String),
    /// `/v2/NAME/blobs/DIGEST`, with the digest of the blob.
    Blob(String),
    /// `/v2/NAME/tags/list`, with the repository's name.
    Tags(String),
    /// `/token`: the source of bearer tokens.
    Token,
    /// Anything else.
    Unknown,
}

impl Endpoint {
    /// Returns the endpoint of a path. The name of the repository does not matter.
    pub fn of(path: &str) -> Self {
        if path == "/token" {
            return Self::Token;
        }
        match path.strip_prefix("/v2") {
            Some("" | "/") => Self::Ping,
            Some(rest) => Self::in_repository(rest),
            None => Self::Unknown,
        }
    }

    fn in_repository(path: &str) -> Self {
        if let Some((_, reference)) = path.rsplit_once("/manifests/") {
            return Self::Manifest(reference.to_owned());
        }
        if let Some((_, digest)) = path.rsplit_once("/blobs/") {
            return Self::Blob(digest.to_owned());
        }
        match path.strip_suffix("/tags/list") {
            Some(name) => Self::Tags(name.trim_start_matches('/').to_owned()),
            None => Self::Unknown,
        }
    }
}

/// The answer to a ping of a client that has access.
pub fn ping() -> Reply {
    Reply::json(200, &json!({})).with_header("Docker-Distribution-Api-Version", "registry/2.0")
}

/// The answer to a request for the tags of a repository. `skopeo inspect` asks for all of them.
///
/// # Errors
///
/// If the layout cannot be read.
pub async fn tags(layout: &Layout, name: &str) -> io::Result<Reply> {
    let tags = layout.tags().await?;
    Ok(Reply::json(200, &json!({"name": name, "tags": tags})))
}

/// The answer to a request for a manifest.
///
/// # Errors
///
/// If the layout cannot be read.
pub async fn manifest(layout: &Layout, reference: &str) -> io::Result<Reply> {
    let Some(manifest) = layout.manifest(reference).await? else {
        let message = format!("manifest {reference} is unknown");
        return Ok(Reply::error(404, "MANIFEST_UNKNOWN", &message));
    };
    let headers = vec![
        ("Content-Type", manifest.media_type),
        ("Docker-Content-Digest", manifest.digest),
    ];
    Ok(Reply::new(200, headers, manifest.bytes.into()))
}

/// The answer to a request for a blob or, with a `Range` header, for a part of it.
///
/// # Errors
///
/// If the layout cannot be read.
pub async fn blob(layout: &Layout, digest: &str, range: Option<&str>) -> io::Result<Reply> {
    if !is_digest(digest) {
        let message = format!("{digest} is not a digest");
        return Ok(Reply::error(400, "DIGEST_INVALID", &message));
    }
    let Some((mut file, len)) = layout.open_blob(digest).await? else {
        let message = format!("blob {digest} is unknown");
        return Ok(Reply::error(404, "BLOB_UNKNOWN", &message));
    };
    let headers = vec![
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Docker-Content-Digest", digest.to_owned()),
        ("Accept-Ranges", "bytes".to_owned()),
    ];
    match range.map_or(Ok(None), |range| parse_range(range, len)) {
        Ok(None) => Ok(Reply::new(200, headers, Body::File(file, len))),
        Ok(Some((start, count))) => {
            file.seek(io::SeekFrom::Start(start)).await?;
            let part = format!("bytes {start}-{}/{len}", start + count - 1);
            let reply = Reply::new(206, headers, Body::File(file, count));
            Ok(reply.with_header("Content-Range", part))
        }
        Err(RangeOutside) => {
            let message = "the range lies outside of the blob";
            let reply = Reply::error(416, "BLOB_UNKNOWN", message);
            Ok(reply.with_header("Content-Range", format!("bytes */{len}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_repository_name_is_accepted() {
        let manifest = Endpoint::Manifest("latest".to_owned());
        assert_eq!(Endpoint::of("/v2/image/manifests/latest"), manifest);
        assert_eq!(Endpoint::of("/v2/a/b/c/manifests/latest"), manifest);
        assert_eq!(Endpoint::of("/v2/blobs/manifests/latest"), manifest);
        let blob = Endpoint::Blob("sha256:00".to_owned());
        assert_eq!(Endpoint::of("/v2/a/b/blobs/sha256:00"), blob);
    }

    #[test]
    fn other_paths_of_the_api_are_parsed() {
        assert_eq!(Endpoint::of("/v2/"), Endpoint::Ping);
        assert_eq!(Endpoint::of("/v2"), Endpoint::Ping);
        assert_eq!(Endpoint::of("/token"), Endpoint::Token);
        let tags = Endpoint::Tags("a/b".to_owned());
        assert_eq!(Endpoint::of("/v2/a/b/tags/list"), tags);
        assert_eq!(Endpoint::of("/v2/_catalog"), Endpoint::Unknown);
        assert_eq!(Endpoint::of("/"), Endpoint::Unknown);
    }
}
