//! Hints that several errors share.

/// The way on after a failure that nothing else ends.
pub(crate) const BUILD_AGAIN: &str = "build and try it again: `darwin-vz-nix generations build`";
