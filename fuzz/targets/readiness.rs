//! The agent's lines, as the host reads them. Each part of the input is one connection to the agent's port: it sends
//! its first line, one more for each line that it receives, and closes. `"!"` stands for the token, so that mutations
//! need not find it.
//!
//! * Only a connection that presents the token is the agent's; no error contains the token.
//! * The first such connection decides: the guest is ready, or of another version.
//! * Every question is answered or refused, in time, and every answer was given.

#![no_main]

use darwin_vz_nix_fuzz::{BETWEEN, SECRET, assert_informative, in_virtual_time};
use dvn_guest::agent::Agent;
use dvn_hypervisor::{GuestAgent, GuestListener, GuestStream};
use dvn_protocol::{
    VERSION,
    messages::{Answer, Ask, FromAgent, MAX_LINE},
};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::mpsc,
};

fuzz_target!(|data: &[u8]| {
    let connections: Vec<Vec<u8>> = data.split(|byte| *byte == BETWEEN).take(8).map(said).collect();
    in_virtual_time(attend(&connections));
});

fn said(part: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(part).replace("\"!\"", &format!("\"{SECRET}\"")).into_bytes()
}

async fn attend(connections: &[Vec<u8>]) {
    let (dial, incoming) = mpsc::channel::<GuestStream>(connections.len());
    for bytes in connections {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(speak(theirs, bytes.clone()));
        dial.try_send(Box::new(ours)).unwrap_or_else(|_| panic!("room"));
    }
    let waiting = Agent::await_ready(GuestListener::new(incoming, None), SECRET.to_owned());
    let decides = connections.iter().find_map(|bytes| first(bytes));
    // Without a deciding connection the guest must end, or the host would wait for ever.
    let _guest = decides.is_some().then_some(dial);
    match (waiting.await, decides) {
        (Ok((agent, readiness)), Some(FromAgent::Ready { version, kernel, phases, data_disk, host_store, .. })) => {
            assert_eq!(version, VERSION);
            assert_eq!((&readiness.kernel, &readiness.phases), (&kernel, &phases));
            assert_eq!((readiness.data_disk, readiness.host_store), (data_disk, host_store));
            let answers: Vec<Result<Answer, String>> = connections.iter().flat_map(|bytes| replies(bytes)).collect();
            for _ in 0..3 {
                match agent.ask(Ask::Figures).await {
                    Ok(answer) => assert!(answers.contains(&Ok(answer))),
                    Err(report) => assert!(!report.message.is_empty()),
                }
            }
        }
        (Err(report), Some(FromAgent::Ready { version, .. })) => {
            assert_ne!(version, VERSION, "{report:?}");
            assert_informative(&report);
        }
        (Err(report), None) => assert_informative(&report),
        (outcome, decides) => panic!("{:?} instead of {decides:?}", outcome.map(|(_, readiness)| readiness)),
    }
}

async fn speak(stream: DuplexStream, bytes: Vec<u8>) {
    let (from, mut to) = tokio::io::split(stream);
    let mut heard = BufReader::new(from).lines();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let sent = to.write_all(line).await;
        if sent.is_err() || !line.ends_with(b"\n") || !matches!(heard.next_line().await, Ok(Some(_))) {
            return;
        }
    }
}

/// How a connection is treated by its first line, if it presents the token.
fn first(bytes: &[u8]) -> Option<FromAgent> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let message = serde_json::from_slice(line).ok().filter(|_| line.len() <= MAX_LINE)?;
    matches!(&message, FromAgent::Ready { token, .. } if token == SECRET).then_some(message)
}

fn replies(bytes: &[u8]) -> impl Iterator<Item = Result<Answer, String>> + '_ {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| match serde_json::from_slice(line) {
        Ok(FromAgent::Reply { result, .. }) => Some(result),
        _ => None,
    })
}
