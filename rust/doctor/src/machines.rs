//! Parser of Nix's list of builders: the setting `builders` and the files that it names, read as Nix reads them.
//!
//! ```text
//! setting ─▶ entries, without comments ─┬─ @FILE ─▶ the same of that file
//!                                       └─ a machine: fields between blanks, - for none
//! ```
//!
//! Newer versions of Nix read some lists differently ([`Reading`]); a list is good if both readings lead to the
//! machine.
//!
//! The rule: a list that Nix refuses is refused here. One unreadable entry makes Nix reject the whole list.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A builder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// The store's address, or only a host.
    pub address: String,
    /// Systems that it builds for; empty means this computer's.
    pub systems: Vec<String>,
    /// The private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// Maximum number of parallel builds.
    pub jobs: u32,
    /// Features that a build must require; others are not sent there.
    pub mandatory: Vec<String>,
    /// The expected host key, as `known_hosts` spells it.
    pub host_key: Option<String>,
}

/// How the text is split into entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nix up to 2.26: splits at line ends and semicolons alike, so a semicolon ends a comment; an entry that begins
    /// with a blank is a machine, whatever follows.
    Split,
    /// Later versions: a comment extends to the end of its line, and blanks around an entry are ignored.
    Trimmed,
}

impl Reading {
    fn entries(self, text: &str) -> Vec<&str> {
        let uncommented = |text| str::split(text, '#').next().unwrap_or_default();
        match self {
            Reading::Split => text.split(['\n', ';']).map(uncommented).filter(|entry| !entry.is_empty()).collect(),
            Reading::Trimmed => {
                let entries = text.split('\n').flat_map(|line| uncommented(line).split(';')).map(str::trim);
                entries.filter(|entry| !entry.is_empty()).collect()
            }
        }
    }
}

/// Why Nix cannot read the list.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A file that exists and cannot be read.
    #[error("{} cannot be read: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: io::Error,
    },
    /// A file that includes itself, perhaps through others.
    #[error("{} includes itself, so Nix would follow it for ever", .0.display())]
    Circle(PathBuf),
    /// A malformed entry.
    #[error("{entry:?}: {why}")]
    Entry {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        why: Wrong,
    },
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The address is missing.
    Address,
    /// The fourth field, parallel builds, is no whole number.
    Jobs,
    /// The fifth field, the speed, is no number.
    Speed,
    /// The eighth field, the host key, is not base64.
    HostKey,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::Address => "the first field, the builder's address, is missing",
            Wrong::Jobs => "the fourth field, the number of parallel builds, is not a whole number",
            Wrong::Speed => "the fifth field, the speed, is not a number of 0 or more",
            Wrong::HostKey => "the eighth field, the host key, is not base64",
        })
    }
}

/// Nix's decoder accepts input without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// All builders of a setting. A missing file has none.
pub fn read(
    setting: &str,
    reading: Reading,
    file: &impl Fn(&Path) -> io::Result<String>,
) -> Result<Vec<Machine>, Unreadable> {
    let mut machines = Vec::new();
    expand(setting, reading, file, &mut Vec::new(), &mut machines)?;
    Ok(machines)
}

fn expand(
    text: &str,
    reading: Reading,
    file: &impl Fn(&Path) -> io::Result<String>,
    within: &mut Vec<PathBuf>,
    machines: &mut Vec<Machine>,
) -> Result<(), Unreadable> {
    for entry in reading.entries(text) {
        let Some(path) = entry.strip_prefix('@') else {
            let machine = machine(entry).map_err(|why| Unreadable::Entry { entry: entry.to_owned(), why })?;
            machines.push(machine);
            continue;
        };
        let path = PathBuf::from(path.trim());
        if within.contains(&path) {
            return Err(Unreadable::Circle(path));
        }
        match file(&path) {
            Ok(text) => {
                within.push(path);
                expand(&text, reading, file, within, machines)?;
                within.pop();
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => return Err(Unreadable::File { path, why }),
        }
    }
    Ok(())
}

fn machine(entry: &str) -> Result<Machine, Wrong> {
    let fields: Vec<&str> = entry.split_ascii_whitespace().collect();
    let field = |index: usize| fields.get(index).copied().filter(|field| *field != "-");
    let list = |index: usize| -> Vec<String> {
        let parts = field(index).unwrap_or_default().split(',');
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let jobs = field(3).map_or(Ok(1), str::parse).map_err(|_| Wrong::Jobs)?;
    let speed: f32 = field(4).map_or(Ok(1.0), str::parse).map_err(|_| Wrong::Speed)?;
    if speed < 0.0 {
        return Err(Wrong::Speed);
    }
    let host_key = match field(7) {
        Some(encoded) => {
            let bytes = LENIENT.decode(encoded.split('=').next().unwrap_or_default()).map_err(|_| Wrong::HostKey)?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        None => None,
    };
    Ok(Machine {
        address: field(0).ok_or(Wrong::Address)?.to_owned(),
        systems: list(1),
        ssh_key: field(2).map(PathBuf::from),
        jobs,
        mandatory: list(6),
        host_key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(path: &Path) -> io::Result<String> {
        match path.to_str().unwrap() {
            "/m" => Ok("# ours\nssh://a x86_64-linux - 2 # two\n; ssh://b;\n".to_owned()),
            "/with blanks/m" => Ok("@/m".to_owned()),
            "/itself" => Ok("ssh://a\n@/itself\n".to_owned()),
            "/there" => Ok("@/back".to_owned()),
            "/back" => Ok("@/there".to_owned()),
            "/closed" => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The result of both readings.
    fn both(setting: &str) -> Result<Vec<Machine>, Unreadable> {
        let [split, trimmed] = [Reading::Split, Reading::Trimmed].map(|reading| read(setting, reading, &files));
        assert_eq!(format!("{split:?}"), format!("{trimmed:?}"), "{setting}");
        trimmed
    }

    #[test]
    fn fields_are_read_as_nix_reads_them() {
        let full = "ssh-ng://u@h a-linux,,b-linux /key 04 0.5 kvm,big kvm,x YSBi extra";
        let expected = Machine {
            address: "ssh-ng://u@h".to_owned(),
            systems: vec!["a-linux".to_owned(), "b-linux".to_owned()],
            ssh_key: Some("/key".into()),
            jobs: 4,
            mandatory: vec!["kvm".to_owned(), "x".to_owned()],
            host_key: Some("a b".to_owned()),
        };
        assert_eq!(both(full).unwrap(), [expected]);
        let bare = Machine { address: "h".to_owned(), jobs: 1, ..Machine::default() };
        for text in ["h", "h -", "h\t-\t-  - - - - -", " h ;# no"] {
            assert_eq!(both(text).unwrap(), std::slice::from_ref(&bare), "{text:?}");
        }
        for padded in ["h - - - - - - YQ", "h - - - - - - YQ=="] {
            assert_eq!(both(padded).unwrap()[0].host_key.as_deref(), Some("a"));
        }
    }

    #[test]
    fn files_are_followed_as_nix_follows_them() {
        for setting in ["@/m", "@ /m", "@/with blanks/m", "# no\n@/none ;@/m # yes"] {
            let addresses: Vec<_> =
                both(setting).unwrap().into_iter().map(|machine| (machine.address, machine.jobs)).collect();
            assert_eq!(addresses, [("ssh://a".to_owned(), 2), ("ssh://b".to_owned(), 1)], "{setting}");
        }
        assert_eq!(both("@/none").unwrap(), []);
        assert_eq!(both("@/m;@/m").unwrap().len(), 4, "including a file twice is not a cycle");
    }

    #[test]
    fn older_and_newer_versions_part_ways_at_blanks_and_comments() {
        let found = |setting, reading| read(setting, reading, &files).map(|machines| machines.len()).ok();
        for (setting, split, trimmed) in [
            // A blank before the sign makes it a machine of that odd name.
            ("@/none ; @/m", Some(1), Some(2)),
            // A comment that ends at a semicolon.
            ("# no ; h", Some(1), Some(0)),
            // A machine without an address.
            ("h ; ", None, Some(1)),
            ("h\n  # no", None, Some(1)),
        ] {
            assert_eq!(found(setting, Reading::Split), split, "{setting}");
            assert_eq!(found(setting, Reading::Trimmed), trimmed, "{setting}");
        }
    }

    #[test]
    fn what_nix_refuses_is_refused() {
        for (setting, why) in [
            ("- a-linux", "the first field"),
            ("h a-linux - x", "the fourth field"),
            ("h a-linux - -1", "the fourth field"),
            ("h a-linux - 4294967296", "the fourth field"),
            // A path with a blank shifts all later fields.
            ("h a-linux /a b/key 4", "the fourth field"),
            ("h a-linux - 1 fast", "the fifth field"),
            ("h a-linux - 1 -1", "the fifth field"),
            ("h a-linux - 1 1 - - !!!", "the eighth field"),
            ("ssh://fine;h - - x", "the fourth field"),
            ("@/itself", "/itself includes itself"),
            ("@/there", "includes itself"),
            ("@/closed", "/closed cannot be read"),
        ] {
            let said = both(setting).unwrap_err().to_string();
            assert!(said.contains(why), "{setting}: {said}");
        }
    }
}
