//! Writes references and manual pages. All of it is in `rust/reference`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dvn_reference::main()
}
