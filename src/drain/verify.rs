//! Checks whether the bytes of a blob have the digest of its descriptor.

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// A running hash, by one of the algorithms that the OCI image specification registers ("Digests",
/// in `descriptor.md`).
#[derive(Debug, Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

/// Hashes the bytes of a blob, and compares the digest with the wanted one.
#[derive(Debug, Clone)]
pub(crate) struct Verifier {
    hasher: Hasher,
    wanted: Digest,
}

impl Verifier {
    /// Makes a verifier. `None` if the algorithm of the digest is not supported.
    pub(crate) fn new(wanted: &Digest) -> Option<Self> {
        let hasher = match wanted.algorithm() {
            DigestAlgorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            DigestAlgorithm::Sha384 => Hasher::Sha384(Sha384::new()),
            DigestAlgorithm::Sha512 => Hasher::Sha512(Sha512::new()),
            _ => return None,
        };
        Some(Self {
            hasher,
            wanted: wanted.clone(),
        })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match &mut self.hasher {
            Hasher::Sha256(h) => h.update(bytes),
            Hasher::Sha384(h) => h.update(bytes),
            Hasher::Sha512(h) => h.update(bytes),
        }
    }

    /// Compares the digests. The error is the digest that the bytes really have.
    pub(crate) fn finish(self) -> Result<(), Digest> {
        let found = match self.hasher {
            Hasher::Sha256(h) => digest("sha256", &h.finalize()),
            Hasher::Sha384(h) => digest("sha384", &h.finalize()),
            Hasher::Sha512(h) => digest("sha512", &h.finalize()),
        };
        if found == self.wanted {
            Ok(())
        } else {
            Err(found)
        }
    }
}

/// The sha256 digest of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    digest("sha256", &Sha256::digest(bytes))
}

fn digest(algorithm: &str, hash: &[u8]) -> Digest {
    let text = format!("{algorithm}:{}", hex(hash));
    text.parse()
        .unwrap_or_else(|_| unreachable!("a hash in lower-case hexadecimal digits is a digest"))
}

/// Whether `bytes` have this digest. `false` if the algorithm is not supported.
pub(crate) fn has_digest(bytes: &[u8], digest: &Digest) -> bool {
    Verifier::new(digest).is_some_and(|mut verifier| {
        verifier.update(bytes);
        verifier.finish().is_ok()
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a `String` can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests of the message "abc" in FIPS 180-2, appendices B, C and D.
    const ABC: [&str; 3] = [
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "sha384:cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ];

    #[test]
    fn the_standard_vectors() {
        for text in ABC {
            let digest: Digest = text.parse().expect("a digest");
            let mut verifier = Verifier::new(&digest).expect("known");
            verifier.update(b"a");
            verifier.update(b"bc");
            assert_eq!(verifier.clone().finish(), Ok(()));
            verifier.update(b"d");
            let found = verifier.finish().expect_err("other bytes");
            assert_ne!(found.as_ref(), text);
            assert!(has_digest(b"abc", &digest));
            assert!(!has_digest(b"abd", &digest));
        }
        assert_eq!(sha256(b"abc").as_ref(), ABC[0]);
    }

    #[test]
    fn an_unknown_algorithm_has_no_verifier() {
        let digest: Digest = "blake3:abcdef".parse().expect("a digest");
        assert!(Verifier::new(&digest).is_none());
        assert!(!has_digest(b"", &digest));
    }
}
