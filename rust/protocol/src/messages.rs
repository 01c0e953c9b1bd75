//! The messages of the agent protocol. See the crate's page for the framing.

use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes, newline included.
pub const MAX_LINE: usize = 64 * 1024;

/// A point of the guest's boot, in milliseconds of the guest's `CLOCK_BOOTTIME` (0 is the kernel's start).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootPhase {
    /// What was finished: `kernel` (PID 1 runs), `modules`, `root`, `disk`, `store`, `sshd`, `nix-daemon`, `ready`.
    pub name: String,
    /// When, in milliseconds.
    pub at_ms: u64,
}

/// What became of the data disk on this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataDisk {
    /// It was blank and has been formatted.
    Formatted,
    /// It was left clean by the last boot and is used as it is.
    Kept,
    /// It was not left clean, or was damaged, and has been formatted anew.
    Rebuilt,
}

/// From the guest to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum FromAgent {
    /// The guest answers on all its vsock ports. Sent first on each connection.
    Ready {
        /// [`crate::VERSION`] of the guest.
        version: u32,
        /// [`crate::GuestConfig::token`], as given.
        token: String,
        /// Kernel release, as `uname -r` prints it.
        kernel: String,
        /// The boot so far, in order.
        phases: Vec<BootPhase>,
        /// The data disk.
        data_disk: DataDisk,
        /// The guest builds on the host's store.
        #[serde(default)]
        host_store: bool,
    },
    /// The answer to the request of this id.
    Reply {
        /// The request's id.
        id: u64,
        /// What was asked for, or why it could not be done.
        result: Result<Answer, String>,
    },
}

/// From the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host; comes back in the reply.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What the host can ask of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Ask {
    /// Set the wall clock. Answered by [`Answer::Done`].
    SetClock {
        /// Nanoseconds since 1970.
        unix_nanos: u64,
    },
    /// How many builds run now. Answered by [`Answer::Builds`].
    Builds,
    /// Memory and disk figures. Answered by [`Answer::Figures`].
    Figures,
    /// Give unused blocks of the data disk back to the host (`FITRIM`). Answered by [`Answer::Trimmed`].
    Trim,
    /// Look at the shares anew: forget every name that was looked up on them, there or not. Answered by [`Answer::Done`] once
    /// the shares have answered, and the host's store has these paths; a share that hangs keeps the answer back.
    FreshView {
        /// Paths of the host's store which it is known to have.
        #[serde(default)]
        expected: Vec<String>,
    },
    /// These store paths are gone from the host's store, or have changed: make them and all that refers to them invalid, and
    /// delete what of it this guest made. Answered by [`Answer::Done`].
    Forget {
        /// Store paths; some may be unknown here.
        paths: Vec<String>,
    },
    /// Go on without the host's store until the next boot: what builds now is ended, every path of it forgotten. Answered by
    /// [`Answer::Done`].
    LeaveStore,
    /// Power off cleanly. Answered by [`Answer::Done`] before it begins.
    ShutDown,
}

/// The agent's answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Answer {
    /// It was done.
    Done,
    /// Builds that run now.
    Builds {
        /// Build users (members of `nixbld`) who own a process: each build has one of its own.
        running: u32,
    },
    /// Sizes in bytes.
    Figures {
        /// `MemTotal`.
        memory_total: u64,
        /// `MemAvailable`.
        memory_available: u64,
        /// Size of the data disk's file system.
        disk_total: u64,
        /// What of it an ordinary user can still write.
        disk_available: u64,
        /// Files and directories of shares that the guest keeps; the host holds a descriptor for each.
        #[serde(default)]
        shared_inodes: u64,
    },
    /// Bytes given back to the host.
    Trimmed {
        /// Bytes.
        bytes: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{from_str, to_string};

    /// The wire form is a contract with guests of other makers: `docs/guest-contract.md` has the same words.
    #[test]
    fn messages_look_as_documented() {
        let ready = FromAgent::Ready {
            version: 1,
            token: "t".into(),
            kernel: "6.1".into(),
            phases: vec![BootPhase { name: "kernel".into(), at_ms: 9 }],
            data_disk: DataDisk::Rebuilt,
            host_store: true,
        };
        assert_eq!(
            to_string(&ready).unwrap(),
            r#"{"type":"ready","version":1,"token":"t","kernel":"6.1","phases":[{"name":"kernel","atMs":9}],"dataDisk":"rebuilt","hostStore":true}"#
        );
        let reply = |result| to_string(&FromAgent::Reply { id: 2, result }).unwrap();
        assert_eq!(reply(Err("no".into())), r#"{"type":"reply","id":2,"result":{"Err":"no"}}"#);
        assert_eq!(reply(Ok(Answer::Done)), r#"{"type":"reply","id":2,"result":{"Ok":{"kind":"done"}}}"#);
        assert_eq!(
            reply(Ok(Answer::Trimmed { bytes: 7 })),
            r#"{"type":"reply","id":2,"result":{"Ok":{"kind":"trimmed","bytes":7}}}"#
        );
        let figures = Answer::Figures {
            memory_total: 1,
            memory_available: 2,
            disk_total: 3,
            disk_available: 4,
            shared_inodes: 5,
        };
        assert_eq!(
            to_string(&figures).unwrap(),
            r#"{"kind":"figures","memoryTotal":1,"memoryAvailable":2,"diskTotal":3,"diskAvailable":4,"sharedInodes":5}"#
        );
        for (ask, verb) in [
            (Ask::Builds, "builds"),
            (Ask::Figures, "figures"),
            (Ask::Trim, "trim"),
            (Ask::FreshView { expected: vec![] }, "fresh-view"),
            (Ask::LeaveStore, "leave-store"),
            (Ask::ShutDown, "shut-down"),
        ] {
            let request = format!(r#"{{"id":1,"ask":{{"verb":"{verb}"}}}}"#);
            assert_eq!(from_str::<Request>(&request).unwrap(), Request { id: 1, ask });
        }
        let forget = Ask::Forget { paths: vec!["/nix/store/x".into()] };
        assert_eq!(to_string(&forget).unwrap(), r#"{"verb":"forget","paths":["/nix/store/x"]}"#);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id: u64, unix_nanos: u64, token: String, why: String) {
            let request = Request { id, ask: Ask::SetClock { unix_nanos } };
            prop_assert_eq!(from_str::<Request>(&to_string(&request).unwrap()).unwrap(), request);
            let reply = FromAgent::Reply { id, result: Err(why) };
            let line = to_string(&reply).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(from_str::<FromAgent>(&line).unwrap(), reply);
            let ready = FromAgent::Ready {
                version: 1, token, kernel: String::new(), phases: Vec::new(), data_disk: DataDisk::Kept, host_store: false,
            };
            prop_assert_eq!(from_str::<FromAgent>(&to_string(&ready).unwrap()).unwrap(), ready);
        }

        #[test]
        fn any_line_is_survived(line: String) {
            let _ = from_str::<Request>(&line).is_ok() | from_str::<FromAgent>(&line).is_ok();
        }
    }
}
