//! The program. Its code is in the crates under `rust/`; see `rust/cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dvn_cli::main()
}
