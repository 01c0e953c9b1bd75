//! QEMU's side of its monitor. The input is what it sends, line by line: a greeting and, with each command that it
//! receives, the lines up to the next answer.
//!
//! * A peer without QEMU's greeting is refused, and receives nothing but the commands.
//! * The n-th command gets the n-th answer, whatever comes in between.
//! * Each shutdown is passed on once, with its cause.

#![no_main]

use darwin_vz_nix_fuzz::in_virtual_time;
use libfuzzer_sys::fuzz_target;
use qmp::{Qmp, ShutdownCause};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::mpsc,
};

#[allow(dead_code, reason = "the target runs commands without arguments")]
#[path = "../../rust/hypervisor/src/qemu/qmp.rs"]
mod qmp;

const COMMANDS: usize = 4;

fuzz_target!(|data: &[u8]| in_virtual_time(converse(data)));

async fn converse(data: &[u8]) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (causes_in, mut causes) = mpsc::unbounded_channel();
    let monitor = async {
        let qmp = Qmp::greet(ours, causes_in).await.map_err(|error| error.to_string())?;
        let mut answers = Vec::new();
        for _ in 0..COMMANDS {
            answers.push(qmp.run("query-status").await);
        }
        Ok::<_, String>(answers)
    };
    let (heard, said) = tokio::join!(monitor, qemu(theirs, data));
    let mut messages = said.lines.iter().map_while(|line| serde_json::from_slice::<Value>(line).ok());
    let greeted = messages.next().is_some_and(|greeting| greeting.get("QMP").is_some());
    let answers = match heard {
        Ok(answers) => answers,
        Err(why) => return assert!(!greeted && (1..1000).contains(&why.len()), "{why}"),
    };
    assert!(greeted, "a peer without a greeting was accepted");
    let (events, mut returned): (Vec<Value>, Vec<Value>) = messages.partition(|message| message.get("event").is_some());
    returned.resize(COMMANDS + 1, Value::String("gone".into()));
    for (answer, message) in answers.iter().zip(&returned[1..]) {
        match answer {
            Ok(value) => assert_eq!(message.get("return"), Some(value)),
            Err(why) if why == "QEMU is gone" => assert!(message == "gone" || message["error"]["desc"] == **why),
            Err(why) => {
                assert!(message.get("return").is_none() && !message.is_null() || why == "QEMU refused", "{why}")
            }
        }
    }
    let mut passed_on = Vec::new();
    while let Ok(cause) = causes.try_recv() {
        passed_on.push(cause);
    }
    let shutdowns = events.iter().filter(|message| message["event"] == "SHUTDOWN");
    assert_eq!(passed_on, shutdowns.map(|message| cause(&message["data"]["reason"])).collect::<Vec<_>>());
    let mut commands = said.heard.iter().map(|line| line.trim_end());
    assert!(commands.next().is_none_or(|first| first == r#"{"execute":"qmp_capabilities"}"#), "{:?}", said.heard);
    assert!(commands.all(|command| command == r#"{"execute":"query-status"}"#), "{:?}", said.heard);
}

#[derive(Default)]
struct Said<'a> {
    lines: Vec<&'a [u8]>,
    heard: Vec<String>,
}

async fn qemu(stream: DuplexStream, data: &[u8]) -> Said<'_> {
    let mut stream = BufReader::new(stream);
    let mut said = Said::default();
    let mut rest = data.split_inclusive(|byte| *byte == b'\n');
    let mut is_greeting = true;
    loop {
        let answered = loop {
            let Some(line) = rest.next() else { break false };
            said.lines.push(line);
            if stream.write_all(line).await.is_err() || !line.ends_with(b"\n") {
                return said;
            }
            let is_event = serde_json::from_slice::<Value>(line).is_ok_and(|message| message.get("event").is_some());
            if std::mem::take(&mut is_greeting) || !is_event {
                break true;
            }
        };
        let mut command = String::new();
        if !answered || stream.read_line(&mut command).await.unwrap_or(0) == 0 {
            return said;
        }
        said.heard.push(command);
        if said.heard.len() > COMMANDS + 1 || rest.clone().next().is_none() {
            return said;
        }
    }
}

fn cause(reason: &Value) -> ShutdownCause {
    match reason.as_str() {
        Some("guest-shutdown") => ShutdownCause::Guest,
        Some("guest-reset") => ShutdownCause::Reset,
        Some("guest-panic") => ShutdownCause::Panic,
        Some("host-qmp-quit") => ShutdownCause::Quit,
        other => ShutdownCause::Other(other.unwrap_or("for no stated reason").to_owned()),
    }
}
