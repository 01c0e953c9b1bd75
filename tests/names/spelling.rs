//! Whether a Swift spelling is the one that Swift's importer makes of an Objective-C name.

use super::apple::Apple;

/// `init(url:readOnly:)` for `initWithURL:readOnly:error:`; `guestDidStop(_:)` for `guestDidStopVirtualMachine:`.
pub fn fits(swift: &str, objc: &str, apple: &Apple) -> bool {
    let (swift, objc) = (swift_pieces(swift), objc_pieces(objc));
    swift.len() == objc.len() && swift.iter().zip(&objc).all(|(swift, objc)| piece_fits(swift, objc, apple))
}

/// `running` for `VZVirtualMachineStateRunning`.
pub fn case_fits(swift: &str, constant: &str, of: &str) -> bool {
    // An option set's constants drop its plural.
    let prefix = of.strip_suffix('s').filter(|_| !constant.starts_with(of)).unwrap_or(of);
    let prefix = if constant.starts_with(prefix) { prefix } else { prefix.trim_end_matches("Code") };
    constant.strip_prefix(prefix).is_some_and(|rest| rest.eq_ignore_ascii_case(swift))
}

fn piece_fits(swift: &str, objc: &str, apple: &Apple) -> bool {
    // The importer leaves out a word that repeats the argument's type.
    objc.strip_prefix(swift).is_some_and(|left_out| left_out.is_empty() || apple.is_type_word(left_out))
}

/// One piece for each argument; name and first label are one.
fn swift_pieces(spelling: &str) -> Vec<String> {
    let (name, labels) = spelling.split_once('(').unwrap_or((spelling, ")"));
    let mut pieces: Vec<String> = labels.trim_end_matches(')').split_terminator(':').map(str::to_lowercase).collect();
    for piece in &mut pieces {
        if piece == "_" {
            piece.clear();
        }
    }
    if pieces.is_empty() {
        pieces.push(String::new());
    }
    pieces[0] = format!("{}{}", name.to_lowercase(), pieces[0]);
    pieces
}

fn objc_pieces(selector: &str) -> Vec<String> {
    let mut pieces: Vec<String> = selector.split_terminator(':').map(str::to_owned).collect();
    // Swift returns an error by `throws`.
    if pieces.len() > 1 && pieces.last().is_some_and(|last| last == "error") {
        pieces.pop();
    }
    let first = pieces[0].clone();
    let first = first.strip_suffix("WithError").unwrap_or(&first);
    // `initWithURL:`, `startWithCompletionHandler:`: the preposition is dropped where a label begins.
    pieces[0] = first.replacen("With", "", 1);
    pieces.iter().map(|piece| piece.to_lowercase()).collect()
}
