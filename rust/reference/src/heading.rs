//! How each page of a reference begins.

/// The title, and where the page comes from.
pub(super) fn head(title: &str) -> String {
    format!("# {title}\n\nMade by `make references`; do not edit.\n")
}
