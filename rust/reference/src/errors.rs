//! `docs/errors.md`: the kinds of errors, with their exit codes and HTTP statuses.

use super::heading::head;
use crate::exit_codes::EXIT_CODES;
use dvn_http::server::status_of;
use dvn_types::Kind;

/// The page.
pub(super) fn page() -> String {
    let mut text = head("Errors and exit codes");
    text.push_str(
        r#"
Every error has a kind, which says what needs to be fixed, a message that says what happened and why, and hints that say what to
do next. The command line exits with the kind's code; the [HTTP API](api.md#errors) answers `{"kind", "message", "hints"}` under the
kind's status.

| kind | exit code | HTTP status | what is wrong |
|---|---|---|---|
"#,
    );
    for kind in Kind::ALL {
        let name = serde_json::to_value(kind).unwrap_or_default();
        let (code, status) = (kind.exit_code(), status_of(kind));
        let name = name.as_str().unwrap_or_default();
        text.push_str(&format!("| `{name}` | {code} | {} | {} |\n", status.as_u16(), meaning(code)));
    }
    text.push_str("\n## Exit codes\n\n```text\n");
    text.push_str(EXIT_CODES);
    text.push_str("\n```\n");
    text
}

/// The description of an exit code.
fn meaning(code: u8) -> &'static str {
    let line =
        |line: &'static str| line.trim_start().split_once("  ").filter(|(number, _)| *number == code.to_string());
    EXIT_CODES.lines().find_map(line).map_or("", |(_, meaning)| meaning)
}
