//! Fetch container images through skopeo.
