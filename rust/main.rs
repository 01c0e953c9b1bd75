//! The program. All of it is in the library; see `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    darwin_vz_nix::cli::main()
}
