//! What a machine's directory has before anything boots: keys, and the program that Nix runs for the direct door.

use super::super::RunOptions;
use crate::{
    error::Report,
    machine_dir::{MachineDir, write_atomic},
    spec::MachineName,
    ssh::keys::Keys,
};
use std::{
    ffi::OsString,
    fs::{self, Metadata},
    os::unix::fs::PermissionsExt,
};

/// Permissions of the program of the direct door.
const PROGRAM: u32 = 0o700;

/// Makes keys, `known_hosts` and the program of the direct door, where they are missing or old.
pub(super) fn furnish(dir: &MachineDir, name: &MachineName, connect_program: &str) -> Result<(), Report> {
    Keys::ensure(dir, name)?;
    let path = dir.connect_program();
    // What is as it should be is left alone: on a full disk the daemon starts all the same, and tells what frees it.
    let mode = |meta: Metadata| meta.permissions().mode() & 0o777;
    if fs::metadata(&path).is_ok_and(|meta| mode(meta) == PROGRAM)
        && fs::read(&path).is_ok_and(|there| there == connect_program.as_bytes())
    {
        return Ok(());
    }
    write_atomic(&path, connect_program.as_bytes(), PROGRAM)
}

/// The program that Nix runs for the direct door: an address can name a program, but not its flags.
pub(super) fn connect_program(options: &RunOptions, name: &MachineName) -> String {
    let mut words = vec![options.program.clone().into_os_string()];
    words.extend(options.flags.iter().cloned());
    words.extend(["--machine", name.as_str(), "connect"].map(OsString::from));
    let words: Vec<_> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    format!(
        "#!/bin/sh\n# Joins Nix, on stdin and stdout, to the nix-daemon of the machine {name}.\nexec {} \"$@\"\n",
        words.join(" ")
    )
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direct_doors_program_survives_any_path() {
        let options = RunOptions {
            search_path: OsString::new(),
            program: "/nix/it's here/darwin-vz-nix".into(),
            flags: vec!["--state-dir".into(), "/a $HOME".into()],
            nix_environment: vec![],
            host: crate::config::HostFacts::gather(),
            shown: Default::default(),
            hangs_up: true,
        };
        let script = connect_program(&options, &"builder".parse().unwrap());
        let exec = script.lines().last().unwrap();
        assert_eq!(
            exec,
            r#"exec '/nix/it'\''s here/darwin-vz-nix' '--state-dir' '/a $HOME' '--machine' 'builder' 'connect' "$@""#
        );
    }
}
