//! The service protocol: requests to the agent that runs as a service in a guest with its own operating system.
//!
//! ```text
//! host connects to SERVICE_PORT ─ Call (one line) ─▶ agent
//!                               ◀─ Answer (one line) ─
//!        the agent closes, or after `exec`: frames both ways until Exit or Killed, then the agent closes
//! ```
//!
//! There is one request per connection. Lines are JSON, at most [`MAX_LINE`] bytes with the newline. The host keeps its
//! direction open until the agent closes the connection: to the agent, an end of the host's bytes means that the client
//! is gone, and the command is ended.

use crate::messages::MAX_LINE;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

pub mod frames;

pub use frames::{Decoder, Frame, FrameError, TtySize};

/// vsock port of the *guest* where the agent that runs as a service listens.
pub const SERVICE_PORT: u32 = 1029;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Call {
    /// Describe agent and guest. Answered by [`Reply::Hello`].
    Hello,
    /// The guest's addresses. Answered by [`Reply::Addresses`].
    Addresses,
    /// Set the wall clock. Answered by [`Reply::Done`].
    SetClock {
        /// Nanoseconds since 1970.
        unix_nanos: u64,
    },
    /// Power off cleanly. Answered by [`Reply::Done`] before it begins.
    ShutDown,
    /// Run a command. Answered by [`Reply::Started`]; frames follow, unless it is detached.
    Exec(Exec),
}

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program: a path, or a name that is looked up in the `PATH` of the command's environment.
    pub command: String,
    /// Its arguments, without the program's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables that are added to the environment; they replace those that the agent sets (`PATH`, `HOME`, `USER`,
    /// `LOGNAME`, `SHELL`, and `TERM` on a terminal).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The working directory, absolute; the user's home if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The user, by name or number; the agent's own if `None`, which is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Run on a terminal of this size. Its output arrives as [`Frame::Stdout`] alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// The host sends input. Without it the command reads `/dev/null`, or a terminal where nothing is typed.
    #[serde(default)]
    pub stdin: bool,
    /// Start the command in its own session without input and output, and close the connection after the answer. Excludes
    /// `tty` and `stdin`.
    #[serde(default)]
    pub detach: bool,
}

/// The agent's answer line: a reply, or why the request failed.
pub type Answer = Result<Reply, String>;

/// What the agent answers to a request that it has performed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Reply {
    /// Agent and guest.
    Hello(Hello),
    /// The guest's addresses.
    Addresses {
        /// Addresses, those of hardware interfaces first.
        addresses: Vec<Address>,
    },
    /// It was done.
    Done,
    /// The command runs.
    Started {
        /// Its process number in the guest.
        pid: u32,
    },
}

/// Agent and guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`crate::VERSION`] of the agent.
    pub version: u32,
    /// The agent's release.
    pub agent: String,
    /// The operating system, as `PRETTY_NAME` of `os-release` names it.
    pub os: String,
    /// The guest's host name.
    pub host_name: String,
    /// Kernel release.
    pub kernel: String,
}

/// An address by which the guest can be reached: neither loopback nor link-local.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The interface's name.
    pub interface: String,
    /// Its hardware address, such as `52:54:00:12:34:56`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The address.
    pub address: IpAddr,
}

/// The line of a request or of an answer, with its newline. An error says how long it would be.
pub fn line(message: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(message).map_err(|e| e.to_string())?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(format!("the message has {} bytes, and at most {MAX_LINE} are allowed", line.len()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
    };
    use serde_json::{from_slice, from_str, to_string};

    /// The wire form is a contract with agents of other releases: `docs/guest-contract.md` has the same examples.
    #[test]
    fn calls_and_answers_look_as_documented() {
        for (call, json) in [
            (Call::Hello, r#"{"call":"hello"}"#),
            (Call::Addresses, r#"{"call":"addresses"}"#),
            (Call::SetClock { unix_nanos: 7 }, r#"{"call":"set-clock","unixNanos":7}"#),
            (Call::ShutDown, r#"{"call":"shut-down"}"#),
            (
                Call::Exec(Exec { command: "true".into(), ..Exec::default() }),
                r#"{"call":"exec","command":"true","stdin":false,"detach":false}"#,
            ),
            (
                Call::Exec(Exec {
                    command: "sh".into(),
                    args: vec!["-c".into(), "id".into()],
                    env: [("A".into(), "b".into())].into(),
                    workdir: Some("/tmp".into()),
                    user: Some("admin".into()),
                    tty: Some(TtySize { rows: 24, cols: 80 }),
                    stdin: true,
                    detach: false,
                }),
                r#"{"call":"exec","command":"sh","args":["-c","id"],"env":{"A":"b"},"workdir":"/tmp","user":"admin","tty":{"rows":24,"cols":80},"stdin":true,"detach":false}"#,
            ),
        ] {
            assert_eq!(to_string(&call).unwrap(), json);
            assert_eq!(from_str::<Call>(json).unwrap(), call);
        }
        let hello = Hello {
            version: 1,
            agent: "0.1.0".into(),
            os: "Debian GNU/Linux 13 (trixie)".into(),
            host_name: "web".into(),
            kernel: "6.12".into(),
        };
        let address = Address {
            interface: "eth0".into(),
            mac: Some("52:54:00:12:34:56".into()),
            address: IpAddr::from([192, 168, 64, 2]),
        };
        for (answer, json) in [
            (Ok(Reply::Done), r#"{"Ok":{"kind":"done"}}"#),
            (Ok(Reply::Started { pid: 7 }), r#"{"Ok":{"kind":"started","pid":7}}"#),
            (
                Ok(Reply::Hello(hello)),
                r#"{"Ok":{"kind":"hello","version":1,"agent":"0.1.0","os":"Debian GNU/Linux 13 (trixie)","hostName":"web","kernel":"6.12"}}"#,
            ),
            (
                Ok(Reply::Addresses { addresses: vec![address] }),
                r#"{"Ok":{"kind":"addresses","addresses":[{"interface":"eth0","mac":"52:54:00:12:34:56","address":"192.168.64.2"}]}}"#,
            ),
            (Err("no".to_owned()), r#"{"Err":"no"}"#),
        ] {
            assert_eq!(to_string::<Answer>(&answer).unwrap(), json);
            assert_eq!(from_str::<Answer>(json).unwrap(), answer);
        }
        let short = from_str::<Call>(r#"{"call":"exec","command":"true"}"#).unwrap();
        assert_eq!(short, Call::Exec(Exec { command: "true".into(), ..Exec::default() }));
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_with_its_length() {
        let call = |length| Call::Exec(Exec { command: "x".repeat(length), ..Exec::default() });
        let around = line(&call(0)).unwrap().len();
        let longest = line(&call(MAX_LINE - around)).unwrap();
        assert_eq!((longest.len(), longest.last()), (MAX_LINE, Some(&b'\n')));
        let why = line(&call(MAX_LINE - around + 1)).unwrap_err();
        assert!(why.contains("65537 bytes") && why.contains("65536"), "{why}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            command: String, args in vec(any::<String>(), 0..4),
            env in btree_map(any::<String>(), any::<String>(), 0..4), workdir: Option<String>,
            user: Option<String>, size: Option<(u16, u16)>, stdin: bool, detach: bool,
        ) {
            let tty = size.map(|(rows, cols)| TtySize { rows, cols });
            let call = Call::Exec(Exec { command, args, env, workdir, user, tty, stdin, detach });
            let line = line(&call).unwrap();
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(from_slice::<Call>(&line).unwrap(), call);
        }

        #[test]
        fn no_line_panics(line: Vec<u8>, text in "[{}\\[\\]\",:a-z0-9]{0,40}") {
            for bytes in [&line[..], text.as_bytes()] {
                let _ = from_slice::<Call>(bytes).is_ok() | from_slice::<Answer>(bytes).is_ok();
            }
        }
    }
}
