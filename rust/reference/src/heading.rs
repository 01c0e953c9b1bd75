//! The heading of each reference page.

/// The title and a note that the page is generated.
pub(super) fn head(title: &str) -> String {
    format!("# {title}\n\nMade by `make references`; do not edit.\n")
}
