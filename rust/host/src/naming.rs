//! Which paths of a state directory others can name.
//!
//! Keys and the program of the direct door lie in it, and their paths go through the hands of others: Nix splits the
//! address of the direct door at blanks and hands it to a shell (2.8 does), cuts a line of its machines file at `;` and
//! `#`, and ssh puts something else for `%` and `${…}`. What breaks any of them is refused before there is anything in the
//! directory, for no way of quoting is understood by all. QEMU's comma is not among them: it can be doubled.

use dvn_types::{Kind, Report};
use std::path::Path;

/// Characters that work everywhere, beside letters and digits.
pub const FINE: &str = "/._-+,:=@^~!";

/// Refuses a path that a consumer would read as something else.
pub fn demand(path: &Path) -> Result<(), Report> {
    let Some((what, why)) = trouble(path) else { return Ok(()) };
    let message = format!("the state directory {path:?} cannot be used: its path has {what}, and {why}");
    Err(Report::new(Kind::State, message)
        .hint(format!("choose one whose path has letters, digits and {FINE} alone: --state-dir")))
}

/// What is wrong with it, and why that is wrong.
fn trouble(path: &Path) -> Option<(String, &'static str)> {
    const UNCLEAR: &str = "others would be given another path";
    let Some(text) = path.to_str() else { return Some(("bytes that are no UTF-8".to_owned(), UNCLEAR)) };
    text.chars().find_map(|c| {
        let why = match c {
            // What became of bytes that were no UTF-8.
            char::REPLACEMENT_CHARACTER => return Some(("bytes that are no UTF-8".to_owned(), UNCLEAR)),
            c if c.is_alphanumeric() || FINE.contains(c) => return None,
            ' ' => return Some(("a blank".to_owned(), "Nix splits the address of the direct door there")),
            c if c.is_whitespace() || c.is_control() => "Nix, ssh or a terminal would take it for something else",
            '#' | ';' => "Nix ends a line of its machines file there",
            '%' | '$' => "ssh or a shell puts something else in its place",
            c if c.is_ascii() => "a shell, to which some versions of Nix hand the path, takes it for itself",
            // Marks and signs of other scripts are bytes like any other.
            _ => return None,
        };
        Some((format!("{c:?}"), why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    #[test]
    fn what_every_consumer_reads_alike_is_taken_and_nothing_else() {
        let with = |c: char| trouble(Path::new(&format!("/x{c}y/s"))).is_none();
        let taken: String = (0..128_u8).map(char::from).filter(|c| !c.is_alphanumeric() && with(*c)).collect();
        let mut fine: Vec<char> = FINE.chars().collect();
        fine.sort_unstable();
        assert_eq!(taken, String::from_iter(fine));
        assert!(('a'..='z').chain('A'..='Z').chain('0'..='9').all(with));
        assert!(with('é') && with('東') && with('ा') && with('🙂'));
        assert!(!with('\u{2028}') && !with('\u{85}') && !with('\u{a0}') && !with('\u{fffd}'));
        let error = demand(Path::new(OsStr::from_bytes(b"/x\xffy"))).unwrap_err();
        assert!(error.message.contains(r"/x\xFFy") && error.message.contains("UTF-8"), "{error}");
        let error = demand(Path::new("/Users/x/Application Support/s")).unwrap_err();
        assert!(error.message.contains("a blank") && error.hints[0].contains("--state-dir"), "{error:?}");
    }
}
