//! The host's end over in-memory pipes.

use super::*;
use dvn_hypervisor::{Exit, GuestListener};
use dvn_protocol::service::{Decoder, Frame};
use std::{
    future::{pending, ready},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream};

/// A guest with one connection to give, or none.
struct OneConnection(Mutex<Option<GuestStream>>);

impl Guest for OneConnection {
    fn connect(&self, port: u32) -> BoxFuture<'_, Result<GuestStream, Report>> {
        assert_eq!(port, 1029);
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(ready(stream.ok_or_else(|| Report::new(Kind::Guest, "nothing listens"))))
    }
    fn request_stop(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(ready(Ok(())))
    }
    fn kill(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(ready(Ok(())))
    }
    fn pause(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(ready(Ok(())))
    }
    fn resume(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(ready(Ok(())))
    }
    fn listen(&self, _: u32) -> Result<GuestListener, Report> {
        Err(Report::new(Kind::Internal, "not here"))
    }
    fn exited(&self) -> BoxFuture<'_, Exit> {
        Box::pin(pending())
    }
}

/// A guest, and its agent's end of the connection.
fn guest() -> (OneConnection, BufReader<DuplexStream>) {
    let (host, agent) = tokio::io::duplex(256 * 1024);
    (OneConnection(Mutex::new(Some(Box::new(host)))), BufReader::new(agent))
}

/// Reads the request and writes these bytes. Returns both.
async fn answer(mut agent: BufReader<DuplexStream>, bytes: &[u8]) -> (String, BufReader<DuplexStream>) {
    let mut asked = String::new();
    agent.read_line(&mut asked).await.unwrap();
    agent.write_all(bytes).await.unwrap();
    (asked, agent)
}

#[tokio::test]
async fn requests_return_the_answers_of_the_agent() {
    let (guest, agent) = self::guest();
    let bytes = b"{\"Ok\":{\"kind\":\"hello\",\"version\":1,\"agent\":\"0.1.0\",\"os\":\"Alpine\",\"hostName\":\"web\",\"kernel\":\"6.12\"}}\n";
    let (hello, (asked, _agent)) = tokio::join!(hello(&guest), answer(agent, bytes));
    assert_eq!((asked.as_str(), hello.unwrap().os.as_str()), ("{\"call\":\"hello\"}\n", "Alpine"));

    let (guest, agent) = self::guest();
    let bytes = b"{\"Ok\":{\"kind\":\"addresses\",\"addresses\":[{\"interface\":\"eth0\",\"address\":\"fd00::2\"}]}}\n";
    let (addresses, (asked, _agent)) = tokio::join!(addresses(&guest), answer(agent, bytes));
    let expected = Address { interface: "eth0".into(), mac: None, address: "fd00::2".parse::<IpAddr>().unwrap() };
    assert_eq!((asked.as_str(), addresses.unwrap()), ("{\"call\":\"addresses\"}\n", vec![expected]));

    let (guest, agent) = self::guest();
    let (set, (asked, _agent)) = tokio::join!(set_clock(&guest, 9), answer(agent, b"{\"Ok\":{\"kind\":\"done\"}}\n"));
    assert_eq!((asked.as_str(), set), ("{\"call\":\"set-clock\",\"unixNanos\":9}\n", Ok(())));
}

#[tokio::test]
async fn the_bytes_after_the_answer_line_stay_in_the_stream() {
    let (guest, agent) = guest();
    let frames = [Frame::Stdout(b"{}\n"), Frame::Exit(3)].map(|frame| frame.to_bytes()).concat();
    let bytes = [b"{\"Ok\":{\"kind\":\"started\",\"pid\":42}}\n", &frames[..]].concat();
    let command = Exec { command: "sh".into(), stdin: true, ..Exec::default() };
    let (started, (asked, mut agent)) = tokio::join!(exec(&guest, command), answer(agent, &bytes));
    assert_eq!(asked, "{\"call\":\"exec\",\"command\":\"sh\",\"stdin\":true,\"detach\":false}\n");
    let mut started = started.unwrap();
    assert_eq!(started.pid, 42);

    let mut decoder = Decoder::new();
    let mut read = vec![0; frames.len()];
    started.frames.read_exact(&mut read).await.unwrap();
    decoder.push(&read);
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Stdout(b"{}\n"))));
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Exit(3))));
    let input = Frame::Stdin(b"x").to_bytes();
    started.frames.write_all(&input).await.unwrap();
    let mut arrived = vec![0; input.len()];
    agent.read_exact(&mut arrived).await.unwrap();
    assert_eq!(arrived, input);
    drop(agent);
    assert_eq!(started.frames.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_refusal_is_the_agents_reason_and_other_answers_are_errors() {
    for (bytes, expected) in [
        (&b"{\"Err\":\"there is no program named frob\"}\n"[..], "there is no program named frob"),
        (b"{\"Ok\":{\"kind\":\"done\"}}\n", "the answer of another request"),
        (b"{\"Ok\":\n", "its answer is invalid"),
    ] {
        let (guest, agent) = guest();
        let command = Exec { command: "frob".into(), ..Exec::default() };
        let (refused, _agent) = tokio::join!(exec(&guest, command), answer(agent, bytes));
        let report = refused.unwrap_err();
        assert!(report.kind == Kind::Guest && report.message.contains(expected), "{report:?}");
    }
    let (guest, agent) = self::guest();
    let endless = vec![b'x'; MAX_LINE];
    let (refused, _agent) = tokio::join!(shut_down(&guest), answer(agent, &endless));
    assert!(refused.unwrap_err().message.contains("too long"));
    let (guest, agent) = self::guest();
    let bytes =
        b"{\"Ok\":{\"kind\":\"hello\",\"version\":2,\"agent\":\"9\",\"os\":\"x\",\"hostName\":\"x\",\"kernel\":\"x\"}}\n";
    let (refused, _agent) = tokio::join!(hello(&guest), answer(agent, bytes));
    assert!(refused.unwrap_err().message.contains("protocol 2"));
}

#[tokio::test]
async fn a_guest_without_an_agent_is_an_error_that_says_how_to_install_it() {
    let nothing_listens = OneConnection(Mutex::new(None));
    let (closes, agent) = guest();
    drop(agent);
    for guest in [nothing_listens, closes] {
        let report = shut_down(&guest).await.unwrap_err();
        assert_eq!(report.kind, Kind::Guest);
        assert!(report.hints.iter().any(|hint| hint.contains("darwin-vz-agent install")), "{report:?}");
    }
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_before_a_connection_is_opened() {
    let (guest, _agent) = guest();
    let command = Exec { command: "x".repeat(MAX_LINE), ..Exec::default() };
    assert_eq!(exec(&guest, command).await.unwrap_err().kind, Kind::Config);
    assert!(guest.0.lock().unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_has_ten_seconds() {
    let (guest, _agent) = guest();
    let began = tokio::time::Instant::now();
    let report = addresses(&guest).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 10, "{report}");
}

#[tokio::test]
async fn as_a_guest_agent_it_sets_the_clock_and_keeps_no_guest_alive() {
    let (guest, agent) = guest();
    let guest: Arc<dyn Guest> = Arc::new(guest);
    let service = ServiceAgent::new(Arc::downgrade(&guest));
    let ask = service.ask(Ask::SetClock { unix_nanos: 5 });
    let (set, (asked, _agent)) = tokio::join!(ask, answer(agent, b"{\"Ok\":{\"kind\":\"done\"}}\n"));
    assert_eq!((asked.as_str(), set), ("{\"call\":\"set-clock\",\"unixNanos\":5}\n", Ok(messages::Answer::Done)));
    assert!(service.ask(Ask::Trim).await.unwrap_err().message.contains("does not support"));
    drop(guest);
    assert!(service.ask(Ask::ShutDown).await.unwrap_err().message.contains("has ended"));
}
