//! Credentials, and how they reach the child: in a sealed memory file that we leave open for it. What skopeo
//! itself starts, such as a credential helper or gpg, inherits that file. Credentials never stand on a command
//! line or in an environment.

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

/// The lowest descriptor that is handed to the child besides stdin, stdout and
/// stderr: clear of those even if this process runs with some of them closed.
const FIRST_PASSED_FD: i32 = 10;

/// The largest auth file that is taken from a file or pipe.
const MAX_AUTH_BYTES: usize = 1024 * 1024;

/// A secret in memory: not shown by `Debug`, wiped when dropped.
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

/// The content of an auth file (`man containers-auth.json`), from memory or
/// from an open file or pipe. The child gets it as a sealed memory file, and what
/// the child starts, such as a credential helper, inherits it.
///
/// A clone of a file's or pipe's content is the same content: it is read once, by whoever needs it first.
#[derive(Debug, Clone)]
pub struct AuthData(AuthSource);

impl AuthData {
    /// Blocks until a file or pipe is read to its end.
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

/// A file or pipe, and its content once somebody has read it.
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
    /// Read from its present position to its end when the proxy is started.
    fn from(file: File) -> Self {
        let content = OnceLock::new();
        Self(AuthSource::File(Arc::new(OpenedFile { file, content })))
    }
}

impl From<OwnedFd> for AuthData {
    /// Read from its present position to its end when the proxy is started.
    fn from(fd: OwnedFd) -> Self {
        Self::from(File::from(fd))
    }
}

/// Credentials for one registry. The child gets them as an auth file that is
/// sealed and in memory only; no other registry, such as a mirror, is shown
/// them.
///
/// skopeo takes a ready-made *bearer* token only on its command line, where
/// every user of the machine can read it; that is not offered here.
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
    /// User name and password for `registry` (`host` or `host:port`, or a
    /// namespace under it).
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

    /// A token that the registry's token service takes as an OAuth 2 refresh
    /// token: what `docker login` stores as `identitytoken`.
    pub fn identity_token(registry: impl Into<String>, token: &str) -> Self {
        Self {
            registry: registry.into(),
            kind: CredentialKind::IdentityToken(token.into()),
        }
    }

    /// Nothing of it is left in memory but the result.
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
                // containers/image asks for an `auth` beside the token; docker writes this one.
                (Zeroizing::new(STANDARD.encode("<token>:")), Some(token))
            }
        };
        let entry = AuthEntry {
            auth: &auth,
            identitytoken,
        };
        let auths = BTreeMap::from([(self.registry.as_str(), entry)]);
        // Written as it is, and into room for all of it: no copies. One character
        // becomes six at most.
        let length = self.registry.len() + auth.len() + identitytoken.map_or(0, str::len);
        let mut file = Zeroizing::new(Vec::with_capacity(6 * length + 100));
        serde_json::to_writer(&mut *file, &AuthFile { auths })
            .map_err(|e| invalid(&e.to_string()))?;
        Ok(file)
    }
}

/// `containers-auth.json(5)`.
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

/// A memory file with this content that nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("longshore-auth", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    crate::sys::duplicate_above(&file, FIRST_PASSED_FD)
}
