//! The program. All of it is in the crates below; see `rust/cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dvn_cli::main()
}
