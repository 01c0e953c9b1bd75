//! The messages of the agent protocol. The crate's documentation describes the framing.

use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes, newline included.
pub const MAX_LINE: usize = 64 * 1024;

/// A point of the guest's boot, in milliseconds of the guest's `CLOCK_BOOTTIME` (0 is the kernel's start).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootPhase {
    /// The phase that was finished: `kernel` (PID 1 runs), `modules`, `root`, `disk`, `store`, `sshd`, `nix-daemon`,
    /// `ready`.
    pub name: String,
    /// When, in milliseconds.
    pub at_ms: u64,
}

/// The state of the data disk at this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataDisk {
    /// It was blank and has been formatted.
    Formatted,
    /// It was left clean by the last boot and is used as it is.
    Kept,
    /// It was not left clean, or was damaged, and has been formatted again.
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
        /// The answer, or why the request failed.
        result: Result<Answer, String>,
    },
}

/// From the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host; repeated in the reply.
    pub id: u64,
    /// The request.
    pub ask: Ask,
}

/// A request to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Ask {
    /// Set the wall clock. Answered by [`Answer::Done`].
    SetClock {
        /// Nanoseconds since 1970.
        unix_nanos: u64,
    },
    /// The number of running builds. Answered by [`Answer::Builds`].
    Builds,
    /// Memory and disk statistics. Answered by [`Answer::Figures`].
    Figures,
    /// Discard unused blocks of the data disk on the host (`FITRIM`). Answered by [`Answer::Trimmed`].
    Trim,
    /// Drop every cached name of the shares, for present and missing files. Answered by [`Answer::Done`] once the
    /// shares have responded and the host's store shows these paths; a share that hangs delays the answer.
    FreshView {
        /// Paths that the host's store is known to have.
        #[serde(default)]
        expected: Vec<String>,
    },
    /// These store paths are gone from the host's store, or have changed: invalidate them and everything that refers to
    /// them, and delete what this guest built of it. Answered by [`Answer::Done`].
    Forget {
        /// Store paths; the guest may not know all of them.
        paths: Vec<String>,
    },
    /// Continue without the host's store until the next boot: end running builds, and remove every path of that store
    /// from the database. Answered by [`Answer::Done`].
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
    /// Running builds.
    Builds {
        /// Build users (members of `nixbld`) that own a process: each build has its own.
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
        /// Bytes of it that an ordinary user can still write.
        disk_available: u64,
        /// Files and directories of shares that the guest caches; the host holds a descriptor for each.
        #[serde(default)]
        shared_inodes: u64,
    },
    /// Bytes discarded on the host.
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

    /// The wire form is a contract with other guests: `docs/guest-contract.md` has the same examples.
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
        fn no_line_panics(line: String) {
            let _ = from_str::<Request>(&line).is_ok() | from_str::<FromAgent>(&line).is_ok();
        }
    }
}
