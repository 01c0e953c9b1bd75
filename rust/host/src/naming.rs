//! Which paths a state directory may have.
//!
//! The directory holds keys and the program of the direct door, and other programs interpret their paths: Nix splits
//! the direct door's address at blanks and passes it to a shell (2.8 does), and ends a line of its machines file at `;`
//! and `#`; ssh expands `%` and `${…}`. A path that breaks any of them is refused before anything is created in the
//! directory, since no quoting works for all. QEMU's comma is allowed: it can be doubled.

use dvn_types::{Kind, Report};
use std::path::Path;

/// Characters that work everywhere, besides letters and digits.
pub const FINE: &str = "/._-+,:=@^~!";

/// Refuses a path that another program would interpret differently.
pub fn check(path: &Path) -> Result<(), Report> {
    let Some((what, why)) = problem(path) else { return Ok(()) };
    let message = format!("the state directory {path:?} cannot be used: its path has {what}, and {why}");
    Err(Report::new(Kind::State, message)
        .hint(format!("choose one whose path has letters, digits and {FINE} alone: --state-dir")))
}

/// The problem with the path, and its consequence.
fn problem(path: &Path) -> Option<(String, &'static str)> {
    const UNCLEAR: &str = "other programs would get another path";
    let Some(text) = path.to_str() else { return Some(("bytes that are not UTF-8".to_owned(), UNCLEAR)) };
    text.chars().find_map(|c| {
        let why = match c {
            // Bytes that are not UTF-8 were turned into this.
            char::REPLACEMENT_CHARACTER => return Some(("bytes that are not UTF-8".to_owned(), UNCLEAR)),
            c if c.is_alphanumeric() || FINE.contains(c) => return None,
            ' ' => return Some(("a blank".to_owned(), "Nix splits the address of the direct door there")),
            c if c.is_whitespace() || c.is_control() => "Nix, ssh or a terminal would interpret it",
            '#' | ';' => "Nix ends a line of its machines file there",
            '%' | '$' => "ssh or a shell expands it",
            c if c.is_ascii() => "it has a meaning for a shell, to which some versions of Nix pass the path",
            // Marks and signs of other scripts are harmless bytes.
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
        let with = |c: char| problem(Path::new(&format!("/x{c}y/s"))).is_none();
        let taken: String = (0..128_u8).map(char::from).filter(|c| !c.is_alphanumeric() && with(*c)).collect();
        let mut fine: Vec<char> = FINE.chars().collect();
        fine.sort_unstable();
        assert_eq!(taken, String::from_iter(fine));
        assert!(('a'..='z').chain('A'..='Z').chain('0'..='9').all(with));
        assert!(with('é') && with('東') && with('ा') && with('🙂'));
        assert!(!with('\u{2028}') && !with('\u{85}') && !with('\u{a0}') && !with('\u{fffd}'));
        let error = check(Path::new(OsStr::from_bytes(b"/x\xffy"))).unwrap_err();
        assert!(error.message.contains(r"/x\xFFy") && error.message.contains("UTF-8"), "{error}");
        let error = check(Path::new("/Users/x/Application Support/s")).unwrap_err();
        assert!(error.message.contains("a blank") && error.hints[0].contains("--state-dir"), "{error:?}");
    }
}
