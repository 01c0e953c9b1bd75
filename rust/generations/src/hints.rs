//! Hints that several errors share.

/// The next step after a failure that is not retried.
pub(crate) const BUILD_AGAIN: &str = "build and try it again: `darwin-vz-nix generations build`";
