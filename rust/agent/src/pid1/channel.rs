//! The agent protocol: one connection to the host, Ready first, then an answer to each request.
//!
//! ```text
//! dial ──connected──▶ Ready sent ──line──▶ answered or skipped ─┐
//!  ▲ refused: wait         ▲                                    │
//!  └──── broken ◀──────────┴────────────────────────────────────┘
//! ```
//!
//! The rule: no message of the host but `shut-down` ends this loop.

mod lines;

use super::{requests::Requests, shutdown};
use crate::console::{Phases, say};
use crate::pid1::tasks::Outcome;
use crate::vsock;
use dvn_protocol::{
    VERSION,
    messages::{Ask, DataDisk, FromAgent, MAX_LINE, Request},
};
use lines::{Line, Lines};
use std::{
    fs::File,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// Delay between two attempts to reach the host. Short, because the boot ends only when the host answers.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Keeps a connection to this port of the host. Never returns.
pub fn run(port: u32, token: &str, phases: &Phases, data_disk: DataDisk, requests: &Arc<Requests>) -> Outcome<()> {
    loop {
        let Ok(socket) = vsock::connect(port) else {
            thread::sleep(RETRY_INTERVAL);
            continue;
        };
        let ready = FromAgent::Ready {
            version: VERSION,
            token: token.to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            phases: phases.so_far(),
            data_disk,
            host_store: requests.on_host_store(),
        };
        // A read or write on a File is one system call, whatever the descriptor is.
        let ended = serve(File::from(socket), &ready, requests);
        say(format_args!(
            "the host's connection ended: {}",
            ended.map_or_else(|e| e.to_string(), |()| "closed".into())
        ));
        thread::sleep(RETRY_INTERVAL);
    }
}

fn serve(socket: File, ready: &FromAgent, requests: &Arc<Requests>) -> io::Result<()> {
    let writer = Writer(Arc::new(Mutex::new(socket.try_clone()?)));
    writer.send(ready)?;
    let mut lines = Lines::new(socket, MAX_LINE);
    while let Some(line) = lines.next()? {
        let request = match line {
            Line::Whole(bytes) => understand(&bytes),
            Line::TooLong => Err(None),
        };
        match request {
            Ok(Request { id, ask }) if Requests::is_slow(&ask) => {
                let (requests, writer) = (Arc::clone(requests), writer.clone());
                crate::threads::background("request", move || {
                    // The connection may have ended meanwhile.
                    let _ = writer.send(&FromAgent::Reply { id, result: requests.answer(&ask) });
                });
            }
            Ok(Request { id, ask }) => {
                writer.send(&FromAgent::Reply { id, result: requests.answer(&ask) })?;
                if ask == Ask::ShutDown {
                    say("the host asked to shut down");
                    shutdown::power_off()
                }
            }
            Err(Some((id, why))) => writer.send(&FromAgent::Reply { id, result: Err(why) })?,
            Err(None) => say("a message of the host was skipped: it is not a request"),
        }
    }
    Ok(())
}

/// A request. Otherwise the id and the reason why it cannot be parsed, or `None` without an id.
fn understand(line: &[u8]) -> Result<Request, Option<(u64, String)>> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        id: u64,
    }
    serde_json::from_slice(line).map_err(|e| {
        let Numbered { id } = serde_json::from_slice(line).ok()?;
        Some((id, format!("this agent does not support this request: {e}")))
    })
}

#[derive(Clone)]
struct Writer(Arc<Mutex<File>>);

impl Writer {
    fn send(&self, message: &FromAgent) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pid1::accounts::BuildUsers;
    use dvn_protocol::messages::Answer;
    use proptest::prelude::*;
    use std::{
        io::{BufRead, BufReader},
        os::{fd::OwnedFd, unix::net::UnixStream},
    };

    fn ready() -> FromAgent {
        FromAgent::Ready {
            version: VERSION,
            token: "secret".into(),
            kernel: "6.1".into(),
            phases: Phases::default().so_far(),
            data_disk: DataDisk::Kept,
            host_store: false,
        }
    }

    /// The agent's answers to these bytes.
    fn talk(bytes: &[u8]) -> Vec<FromAgent> {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let requests = Requests { builders: BuildUsers::default(), shares: Vec::new(), store: None };
            serve(File::from(OwnedFd::from(guest)), &ready(), &Arc::new(requests))
        });
        let reader = BufReader::new(host.try_clone().unwrap());
        let bytes = bytes.to_vec();
        let writer = thread::spawn(move || {
            host.write_all(&bytes).unwrap();
            host.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let answers = reader.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        writer.join().unwrap();
        agent.join().unwrap().unwrap();
        answers
    }

    #[test]
    fn requests_are_answered_despite_garbage_between_them() {
        let long = format!("{{\"id\":1,\"ask\":\"{}\"}}\n", "x".repeat(MAX_LINE));
        let said = [
            "not json\n".as_bytes(),
            b"{\"id\":7,\"ask\":{\"verb\":\"dance\"}}\n",
            b"\n\xff\xfe\n",
            long.as_bytes(),
            b"{\"id\":8,\"ask\":{\"verb\":\"builds\"}}\n",
        ]
        .concat();
        let answers = talk(&said);
        assert_eq!(answers[0], ready());
        assert!(
            matches!(&answers[1], FromAgent::Reply { id: 7, result: Err(why) } if why.contains("dance")),
            "{answers:?}"
        );
        assert_eq!(answers[2], FromAgent::Reply { id: 8, result: Ok(Answer::Builds { running: 0 }) });
        assert_eq!(answers.len(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_input_from_the_host_stops_the_agent(noise in any::<Vec<u8>>()) {
            let mut said = noise;
            said.extend_from_slice(b"\n{\"id\":99,\"ask\":{\"verb\":\"fresh-view\"}}\n");
            let answers = talk(&said);
            prop_assert_eq!(answers.last(), Some(&FromAgent::Reply { id: 99, result: Ok(Answer::Done) }));
        }

        #[test]
        fn no_line_panics_the_parser(line in any::<Vec<u8>>(), text in "[{}\\[\\]\",:a-z0-9]{0,40}") {
            let _ = understand(&line);
            let _ = understand(text.as_bytes());
        }
    }
}
