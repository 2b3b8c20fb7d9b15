//! Credentials, and how the child gets them: in a sealed memory file that stays open for it. Programs that
//! skopeo starts, such as a credential helper or gpg, inherit this file. Credentials are never part of a
//! command line or an environment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::drain::bounded;
use crate::error::{ConfigError, Error, Result};

/// The lowest number of a descriptor that is passed to the child, besides stdin, stdout and stderr. Of the two values,
/// the first leaves room for descriptors that a command of the caller passes to skopeo itself. The second is used if
/// the limit of open files does not allow the first. Neither can be the number of stdin, stdout or stderr, which may
/// be closed here.
const FIRST_PASSED_FDS: [i32; 2] = [100, 10];

/// The maximum size of an auth file that is read from a file or a pipe, in bytes.
const MAX_AUTH_BYTES: usize = 1024 * 1024;

/// A secret in memory. `Debug` does not show it, and it is wiped when it is dropped.
#[derive(Clone)]
struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

/// The content of an auth file (`man containers-auth.json`), from memory or from an open file or pipe. skopeo gets the
/// content as a sealed memory file. Programs that skopeo starts, such as a credential helper, inherit that file.
///
/// Clones have the same content. A file or pipe is read once, when the first clone is used. It has at most 1 MiB;
/// otherwise, the start of the proxy fails with [`ConfigError::Invalid`].
#[derive(Debug, Clone)]
pub struct AuthData(AuthSource);

impl AuthData {
    /// Returns the content. Blocks until a file or pipe has been read to its end.
    pub(super) fn read(self) -> Result<Zeroizing<Vec<u8>>> {
        match self.0 {
            AuthSource::Bytes(secret) => Ok(secret.0),
            AuthSource::File(opened) => {
                let content = opened.content.get_or_init(|| read_auth(&opened.file));
                content.clone().map(|secret| secret.0)
            }
        }
    }
}

fn read_auth(file: &File) -> Result<Secret> {
    let read = bounded::read_secret(file, MAX_AUTH_BYTES);
    let read = read.map_err(Error::io("can't read the auth data"))?;
    read.map(Secret).ok_or_else(|| {
        let option = "auth_data";
        let reason = format!("an auth file has at most {MAX_AUTH_BYTES} bytes");
        ConfigError::Invalid { option, reason }.into()
    })
}

#[derive(Debug, Clone)]
enum AuthSource {
    Bytes(Secret),
    File(Arc<OpenedFile>),
}

/// A file or pipe, and its content after the first read.
#[derive(Debug)]
struct OpenedFile {
    file: File,
    content: OnceLock<Result<Secret>>,
}

impl From<Vec<u8>> for AuthData {
    fn from(bytes: Vec<u8>) -> Self {
        Self(AuthSource::Bytes(Secret(Zeroizing::new(bytes))))
    }
}

impl From<File> for AuthData {
    /// Takes the content of a file, from its current position to its end. The file is read when the first proxy or
    /// [`Fetcher`](crate::Fetcher) is made.
    fn from(file: File) -> Self {
        let content = OnceLock::new();
        Self(AuthSource::File(Arc::new(OpenedFile { file, content })))
    }
}

impl From<OwnedFd> for AuthData {
    /// Takes the content of a descriptor, from its current position to its end. The descriptor is read when the first
    /// proxy or [`Fetcher`](crate::Fetcher) is made.
    fn from(fd: OwnedFd) -> Self {
        Self::from(File::from(fd))
    }
}

/// Credentials for one registry. skopeo gets them in a sealed auth file that exists only in memory. They are not sent
/// to any other registry, such as a mirror. skopeo then reads no other auth file.
///
/// Ready-made *bearer* tokens are not supported, because skopeo accepts one only on its command line, where
/// every user of the machine can read it.
#[derive(Debug, Clone)]
pub struct Credentials {
    registry: String,
    kind: CredentialKind,
}

#[derive(Debug, Clone)]
enum CredentialKind {
    Password { username: String, password: Secret },
    IdentityToken(Secret),
}

impl Credentials {
    /// Makes credentials of a user name and a password. `registry` is `host` or `host:port`, or a namespace under it,
    /// such as `host/namespace`. With a user name that contains `:`, the start of a proxy fails
    /// with [`ConfigError::Invalid`].
    pub fn password(
        registry: impl Into<String>,
        username: impl Into<String>,
        password: &str,
    ) -> Self {
        let kind = CredentialKind::Password {
            username: username.into(),
            password: password.into(),
        };
        Self {
            registry: registry.into(),
            kind,
        }
    }

    /// Makes credentials of a token that the registry's token service accepts as an OAuth 2 refresh token.
    /// `docker login` stores such a token as `identitytoken`. `registry` has the form that
    /// [`password`](Self::password) describes.
    pub fn identity_token(registry: impl Into<String>, token: &str) -> Self {
        Self {
            registry: registry.into(),
            kind: CredentialKind::IdentityToken(token.into()),
        }
    }

    /// The content of an auth file. No other copy of it stays in memory.
    pub(super) fn auth_file(&self) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
        let invalid = |reason: &str| ConfigError::Invalid {
            option: "credentials",
            reason: reason.into(),
        };
        let (auth, identitytoken) = match &self.kind {
            CredentialKind::Password { username, password } => {
                if username.contains(':') {
                    return Err(invalid("a user name can't contain ':'"));
                }
                let plain = Zeroizing::new([username.as_bytes(), b":", &password.0].concat());
                (Zeroizing::new(STANDARD.encode(&*plain)), None)
            }
            CredentialKind::IdentityToken(token) => {
                let token = std::str::from_utf8(&token.0);
                let token = token.map_err(|_| invalid("the token is not text"))?;
                // containers/image requires an `auth` beside the token. docker writes this one.
                (Zeroizing::new(STANDARD.encode("<token>:")), Some(token))
            }
        };
        let entry = AuthEntry {
            auth: &auth,
            identitytoken,
        };
        let auths = BTreeMap::from([(self.registry.as_str(), entry)]);
        // The text is written into a buffer of sufficient capacity, so that there are no copies. JSON escapes a
        // character by six characters at most.
        let length = self.registry.len() + auth.len() + identitytoken.map_or(0, str::len);
        let mut file = Zeroizing::new(Vec::with_capacity(6 * length + 100));
        serde_json::to_writer(&mut *file, &AuthFile { auths })
            .map_err(|e| invalid(&e.to_string()))?;
        Ok(file)
    }
}

/// The format of `containers-auth.json(5)`.
#[derive(Serialize)]
struct AuthFile<'a> {
    auths: BTreeMap<&'a str, AuthEntry<'a>>,
}

#[derive(Serialize)]
struct AuthEntry<'a> {
    auth: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    identitytoken: Option<&'a str>,
}

/// Makes a memory file with this content that can't be changed any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("longshore-auth", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    let [high, low] = FIRST_PASSED_FDS;
    crate::sys::duplicate_above(&file, high).or_else(|_| crate::sys::duplicate_above(&file, low))
}
