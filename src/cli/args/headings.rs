//! The groups of options in the help.

pub(super) const IMAGES: &str = "Images";
pub(super) const OUTPUT: &str = "Output";
pub(super) const SPEED: &str = "Speed";
pub(super) const CREDENTIALS: &str = "Credentials and TLS";
pub(super) const TRUST: &str = "Trust";
pub(super) const LIMITS: &str = "Limits";
