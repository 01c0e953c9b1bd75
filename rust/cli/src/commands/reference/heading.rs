//! How each page of a reference begins.

/// The title, and where the page comes from.
pub(super) fn head(title: &str, page: &str) -> String {
    format!("# {title}\n\nMade by `darwin-vz-nix reference {page}`; do not edit.\n")
}
