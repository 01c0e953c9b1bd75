//! Writes references and manual pages. Its code is in `rust/reference`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dvn_reference::main()
}
