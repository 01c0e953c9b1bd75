//! Provisions a machine's directory before the first boot: keys, and the program that Nix runs for the direct door.

use crate::options::RunOptions;
use dvn_guest::ssh::keys::Keys;
use dvn_host::{files::write_atomic, machine_dir::MachineDir, quoting::for_shell, regular_file};
use dvn_types::{MachineName, Report};
use std::{ffi::OsString, fs::Metadata, os::unix::fs::PermissionsExt};

/// Permissions of the program of the direct door.
const PROGRAM: u32 = 0o700;

/// Creates the keys, `known_hosts` and the program of the direct door if they are missing, and updates the program.
pub(super) fn provision(dir: &MachineDir, name: &MachineName, connect_program: &[u8]) -> Result<(), Report> {
    Keys::ensure(dir, name)?;
    let path = dir.connect_program();
    // An up-to-date program is not written again: on a full disk the daemon still starts, and can report how to free space.
    let mode = |meta: Metadata| meta.permissions().mode() & 0o777;
    if regular_file::look(&path).is_ok_and(|meta| mode(meta) == PROGRAM)
        && regular_file::read(&path).is_ok_and(|there| there == connect_program)
    {
        return Ok(());
    }
    write_atomic(&path, connect_program, PROGRAM)
}

/// The program that Nix runs for the direct door: a store address can name a program, but not its flags.
pub(super) fn connect_program(options: &RunOptions, name: &MachineName) -> Result<Vec<u8>, Report> {
    let mut script =
        format!("#!/bin/sh\n# Joins Nix, on stdin and stdout, to the nix-daemon of the machine {name}.\nexec ")
            .into_bytes();
    let mut words = vec![options.program.clone().into_os_string()];
    words.extend(options.flags.iter().cloned());
    words.extend(["--machine", name.as_str(), "connect"].map(OsString::from));
    script.extend(for_shell(words.iter().map(OsString::as_os_str))?);
    script.extend(b" \"$@\"\n");
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::ffi::OsStringExt, process::Command};

    fn options(program: OsString, flags: &[OsString]) -> RunOptions {
        RunOptions {
            search_path: OsString::new(),
            program: program.into(),
            flags: flags.to_vec(),
            nix_environment: vec![],
            host: dvn_config::HostFacts::gather(),
            shown: Default::default(),
            hangs_up: true,
            detached: true,
        }
    }

    #[test]
    fn the_direct_doors_program_survives_any_path() {
        let options = options("/nix/it's here/darwin-vz-nix".into(), &["--state-dir".into(), "/a $HOME".into()]);
        let script = String::from_utf8(connect_program(&options, &"builder".parse().unwrap()).unwrap()).unwrap();
        let exec = script.lines().last().unwrap();
        assert_eq!(
            exec,
            r#"exec "/nix/it's here/darwin-vz-nix" --state-dir '/a $HOME' --machine builder connect "$@""#
        );
    }

    /// The program's path and its flags may contain any byte: the shell passes them on unchanged.
    #[test]
    fn every_byte_of_program_and_flags_comes_through_the_shell() {
        let tmp = tempfile::tempdir().unwrap();
        let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let program = tmp.path().join(OsString::from_vec(odd[..200].to_vec()));
        fs::write(&program, "#!/bin/sh\nprintf '%s|' \"$@\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let flag = OsString::from_vec(odd.clone());
        let script =
            connect_program(&options(program.into(), &["--config".into(), flag]), &"b".parse().unwrap()).unwrap();
        let connect = tmp.path().join("connect");
        fs::write(&connect, script).unwrap();
        let said = Command::new("sh").arg(&connect).arg("--stdio").output().unwrap();
        let expected = [&b"--config|"[..], &odd, b"|--machine|b|connect|--stdio|"].concat();
        assert_eq!(said.stdout, expected, "{}", String::from_utf8_lossy(&said.stderr));
    }
}
