//! The API and its client over a real Unix socket, with a fake daemon behind it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;
#[path = "api/contract.rs"]
mod contract;
#[path = "api/headers.rs"]
mod headers;
#[path = "api/tcp.rs"]
mod tcp;

use common::{Server, event, timeline};
use dvn_client::{Client, EventUpdate};
use dvn_http::control::Control;
use dvn_types::{
    Kind, MachineName, Report, Service,
    wire::{DestroyRequest, RollbackRequest, StartRequest, State, StopRequest},
};
use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn builder() -> MachineName {
    "builder".parse().unwrap()
}

/// Sends the request as written; returns the status line and the body.
fn raw(server: &Server, request: &str, body: &str) -> (String, String) {
    raw_head(server, &format!("{request} HTTP/1.1"), body)
}

/// Sends an incomplete head; returns the same.
fn raw_head(server: &Server, head: &str, body: &str) -> (String, String) {
    let answer = raw_answer(server, head, body);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn raw_answer(server: &Server, head: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(server.path().join("api.sock")).unwrap();
    let length = body.len();
    write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn refused(server: &Server, request: &str, body: &str) -> (String, Report) {
    let (status, answer) = raw(server, request, body);
    (status, serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

#[tokio::test]
async fn start_and_stop_carry_their_bodies() {
    let server = Server::new();
    let client = Client::new(server.path());
    client.health().await.unwrap();
    assert_eq!(client.status().await.unwrap().machines[0].state, State::Stopped { last_exit: None });
    client.start(&builder(), &StartRequest { cores: Some(2), ..StartRequest::default() }).await.unwrap();
    let status = client.status().await.unwrap();
    assert!(matches!(status.machines[0].state, State::Running { .. }));
    assert_eq!(status.machines[0].last_boot, Some(timeline()));
    client.stop(&builder(), &StopRequest { force: true }).await.unwrap();
    assert_eq!(client.trim(&builder()).await.unwrap().bytes, 7 << 20);
    client.destroy(&builder(), DestroyRequest { keep_keys: true, keep_generations: false }).await.unwrap();
    assert_eq!(raw(&server, "POST /v1/machines/builder/stop", "").0, "HTTP/1.1 200 OK", "no body is the default");
    assert_eq!(
        server.calls(),
        [
            "start builder StartRequest { cores: Some(2), memory: None, disk_size: None }",
            "stop builder force=true",
            "trim builder",
            "destroy builder keep_keys=true keep_generations=false",
            "stop builder force=false",
        ]
    );
}

#[tokio::test]
async fn generations_are_listed_and_changed() {
    let server = Server::new();
    let client = Client::new(server.path());
    assert_eq!(client.generations(&builder()).await.unwrap(), common::generations());
    client.roll_back(&builder(), &RollbackRequest { to: Some(3) }).await.unwrap();
    client.roll_back(&builder(), &RollbackRequest::default()).await.unwrap();
    client.build_generation(&builder()).await.unwrap();
    client.delete_generation(&builder(), 7).await.unwrap();
    let calls = ["builder RollBack(Some(3))", "builder RollBack(None)", "builder Build", "builder Delete(7)"];
    assert_eq!(server.calls(), calls);
    let (line, report) = refused(&server, "DELETE /v1/machines/builder/generations/x", "");
    assert_eq!((line.as_str(), report.kind), ("HTTP/1.1 404 Not Found", Kind::NotFound));
    let text = client.build_log(&builder(), false, None).await.unwrap().chunk().await.unwrap();
    assert_eq!(text, None, "nothing was built yet");
}

#[test]
fn every_refusal_is_a_report_with_a_fitting_status() {
    let server = Server::new();
    let long = format!("{{\"cores\": {}1}}", " ".repeat(70_000));
    for (request, body, status, kind, message) in [
        (
            "POST /v1/machines/%ff/stop",
            "",
            "404 Not Found",
            Kind::NotFound,
            "the path cannot be read: Invalid URL: Invalid UTF-8 in `name`",
        ),
        ("OPTIONS /v1/status", "", "405 Method Not Allowed", Kind::Config, "/v1/status does not take OPTIONS"),
        ("POST /v1/machines/zz/pause", "", "404 Not Found", Kind::NotFound, "there is no machine zz"),
        ("GET /nothing", "", "404 Not Found", Kind::NotFound, "the API has nothing at /nothing"),
        ("PUT /v1/status", "", "405 Method Not Allowed", Kind::Config, "/v1/status does not take PUT"),
        ("POST /v1/machines/zz/start", "", "404 Not Found", Kind::NotFound, "there is no machine zz"),
        (
            "POST /v1/machines/.zz/stop",
            "",
            "404 Not Found",
            Kind::NotFound,
            "\".zz\" is not a machine name: a name does not begin with a dot",
        ),
        (
            "POST /v1/machines/builder/start",
            "{\"core\": 1}",
            "422 Unprocessable Entity",
            Kind::Config,
            "the body cannot be read: unknown field `core`, expected one of `cores`, `memory`, `diskSize` at line 1 column 7",
        ),
        (
            "POST /v1/machines/builder/start",
            "{\"cores\": 99}",
            "422 Unprocessable Entity",
            Kind::Config,
            "--cores = 99: this computer has 8",
        ),
        (
            "POST /v1/machines/builder/stop",
            " [true]",
            "422 Unprocessable Entity",
            Kind::Config,
            "the body cannot be read: it is a list, and must be an object",
        ),
        (
            "POST /v1/machines/builder/stop",
            "[",
            "422 Unprocessable Entity",
            Kind::Config,
            "the body cannot be read: EOF while parsing a list at line 1 column 1",
        ),
        (
            "POST /v1/machines/builder/start",
            &long,
            "413 Payload Too Large",
            Kind::Config,
            "Failed to buffer the request body: length limit exceeded",
        ),
        (
            "GET /v1/status?after=x",
            "",
            "400 Bad Request",
            Kind::Config,
            "the query cannot be read: Failed to deserialize query string: after: invalid digit found in string",
        ),
        (
            "GET /v1/logs?folow=true",
            "",
            "400 Bad Request",
            Kind::Config,
            "the query cannot be read: Failed to deserialize query string: folow: unknown field `folow`, expected `follow` or `lines`",
        ),
        ("GET /v1/machines/builder/connect/ftp", "", "404 Not Found", Kind::NotFound, "a guest has no service \"ftp\""),
        (
            "GET /v1/machines/builder/connect/ssh",
            "",
            "426 Upgrade Required",
            Kind::Config,
            "this path is a byte stream, and the request did not ask for one",
        ),
    ] {
        let (line, report) = refused(&server, request, body);
        assert_eq!(line, format!("HTTP/1.1 {status}"), "{request}");
        assert_eq!((report.kind, report.message.as_str()), (kind, message), "{request}");
    }
    assert!(server.calls().is_empty(), "nothing was done");
}

#[test]
fn a_body_that_says_it_is_something_else_is_refused() {
    let server = Server::new();
    for (kind, status) in [
        ("application/x-www-form-urlencoded", "415 Unsupported Media Type"),
        ("text/plain", "415 Unsupported Media Type"),
        ("application/json; charset=utf-8", "200 OK"),
    ] {
        let request = format!("POST /v1/machines/builder/stop HTTP/1.1\r\nContent-Type: {kind}\r\nX: y");
        let (line, _) = raw_head(&server, &request, "{\"force\":true}");
        assert_eq!(line, format!("HTTP/1.1 {status}"), "{kind}");
    }
    assert_eq!(server.calls(), ["stop builder force=true"]);
}

#[tokio::test]
async fn pause_and_resume_and_what_is_known() {
    let server = Server::new();
    let client = Client::new(server.path());
    client.pause(&builder()).await.unwrap();
    assert_eq!(client.status().await.unwrap().machines[0].state, State::Paused { leases: 1, resuming: false });
    client.resume(&builder()).await.unwrap();
    assert_eq!(server.calls(), ["pause builder", "resume builder"]);
    let report = Report::new(Kind::Busy, "no guest runs");
    *server.fake.fault.lock().unwrap() = Some(report.clone());
    assert_eq!(client.resume(&builder()).await.unwrap_err(), report);

    assert_eq!(client.connections().await.unwrap(), server.fake.connections());
    assert_eq!(client.config().await.unwrap(), server.fake.config());
    assert_eq!(client.metrics().await.unwrap(), "# EOF\n");
    let mut head = raw_answer(&server, "GET /v1/metrics HTTP/1.1", "").to_ascii_lowercase();
    head.truncate(head.find("\r\n\r\n").unwrap());
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
}

#[test]
fn the_description_is_fresh_and_served() {
    let server = Server::new();
    let made = dvn_http::router::description();
    let (_, served) = raw(&server, "GET /v1/openapi.json", "");
    let made = serde_json::to_value(&made).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&served).unwrap(), made);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let kept = std::fs::read(path).unwrap_or_default();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap_or_default();
    assert!(made == kept, "docs/openapi.json is out of date: make references");
}

#[test]
fn each_kind_has_its_status() {
    let server = Server::new();
    for (kind, status) in [
        (Kind::Config, 422),
        (Kind::NotRunning, 503),
        (Kind::Host, 503),
        (Kind::Bundle, 422),
        (Kind::Boot, 503),
        (Kind::Busy, 409),
        (Kind::State, 500),
        (Kind::Guest, 503),
        (Kind::NotFound, 404),
        (Kind::Internal, 500),
    ] {
        let report = Report::new(kind, "no").hint("try");
        *server.fake.fault.lock().unwrap() = Some(report.clone());
        let (line, answer) = refused(&server, "POST /v1/machines/builder/start", "");
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{kind:?}: {line}");
        assert_eq!(answer, report);
    }
}

#[tokio::test]
async fn a_status_with_after_waits_for_a_change_or_for_its_time() {
    let server = Server::new();
    let client = Client::new(server.path());
    let generation = client.status().await.unwrap().generation;
    let at_once = client.status_after(generation - 1, Duration::from_secs(60)).await.unwrap();
    assert_eq!(at_once.generation, generation);

    let begun = Instant::now();
    assert_eq!(client.status_after(generation, Duration::from_secs(1)).await.unwrap().generation, generation);
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let fake = server.fake.clone();
    let (status, ()) = tokio::join!(client.status_after(generation, Duration::from_secs(60)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.moved(State::Starting);
    });
    assert_eq!(status.unwrap().machines[0].state, State::Starting);
}

#[tokio::test]
async fn a_stream_to_the_guest_carries_bytes_and_half_closes() {
    let server = Server::new();
    let client = Client::new(server.path());
    let mut ssh = client.connect(&builder(), Service::Ssh).await.unwrap();
    ssh.stream.write_all(b"hello").await.unwrap();
    ssh.stream.shutdown().await.unwrap();
    let mut answer = ssh.early.to_vec();
    ssh.stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"SSH-2.0-fake\r\nhello");

    let mut nix = client.connect(&builder(), Service::Nix).await.unwrap();
    for _ in 0..64 {
        nix.stream.write_all(&[7; 64 * 1024]).await.unwrap();
    }
    nix.stream.shutdown().await.unwrap();
    let mut answer = nix.early.to_vec();
    nix.stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"read 4194304\n");
}

#[tokio::test]
async fn a_failed_boot_is_an_error_of_the_request_and_not_a_stream_that_ends() {
    let server = Server::new();
    let report = Report::new(Kind::Boot, "the guest panicked").hint("see its console");
    *server.fake.fault.lock().unwrap() = Some(report.clone());
    assert_eq!(Client::new(server.path()).connect(&builder(), Service::Nix).await.unwrap_err(), report);
}

#[tokio::test]
async fn a_client_that_leaves_while_the_guest_boots_gives_its_lease_up() {
    let server = Server::new();
    let client = Client::new(server.path());
    let stuck: MachineName = "stuck".parse().unwrap();
    let waiting = || server.fake.waiting.load(Ordering::SeqCst);
    let patience = tokio::time::timeout(Duration::from_millis(200), client.connect(&stuck, Service::Ssh)).await;
    assert!(patience.is_err());
    // The client is dropped with its future; the server must notice that by itself.
    for _ in 0..100 {
        if !server.calls().is_empty() && waiting() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} still wait", waiting());
}

/// Ctrl-C in `stop --daemon` must not leave a daemon that refuses everything and never ends.
#[tokio::test]
async fn what_has_been_begun_is_brought_to_its_end_though_the_client_leaves() {
    let server = Server::new();
    let client = Client::new(server.path());
    let leave = Duration::from_millis(200);
    let finished = |server: &Server| server.fake.finished.load(Ordering::SeqCst);

    let brake = server.fake.brake.lock().await;
    let builder = builder();
    let destroyed = tokio::time::timeout(leave, client.destroy(&builder, DestroyRequest::default()));
    assert!(destroyed.await.is_err());
    let client = Client::new(server.path());
    assert!(tokio::time::timeout(leave, client.shut_down()).await.is_err());
    drop(client);
    // The server needs time to notice that they have left.
    tokio::time::sleep(leave).await;
    assert_eq!((server.calls().len(), finished(&server)), (2, 0));
    drop(brake);
    for _ in 0..250 {
        if finished(&server) == 2 {
            return server.join().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} of 2 were brought to their end", finished(&server));
}

#[tokio::test]
async fn events_come_in_order_with_their_ids_and_a_slow_reader_learns_what_it_missed() {
    let server = Server::new();
    let mut events = Client::new(server.path()).events().await.unwrap();
    server.fake.events.send(event(1)).unwrap();
    assert_eq!(events.next().await.unwrap(), Some(EventUpdate::Event(event(1))));
    assert_eq!(events.next_before(Duration::from_millis(50)).await, None, "nothing more has happened");
    // More than the channel holds, at once, so that the server cannot have read some in between.
    let sender = server.fake.events.clone();
    for id in 2..4000 {
        sender.send(event(id)).unwrap();
    }
    let (mut seen, mut lagged) = (1, false);
    loop {
        match events.next().await.unwrap().unwrap() {
            EventUpdate::Event(event) => {
                assert_eq!(event.id, seen + 1);
                seen = event.id;
            }
            EventUpdate::Lagged(missed) => (seen, lagged) = (seen + missed, true),
        }
        if seen == 3999 {
            break;
        }
    }
    assert!(lagged);
}

#[tokio::test]
async fn the_log_is_streamed_and_followed() {
    let server = Server::new();
    let client = Client::new(server.path());
    let log = server.path().join("daemon.log");
    let mut text = client.logs(false, None).await.unwrap();
    assert_eq!(text.chunk().await.unwrap(), None, "no log yet");
    std::fs::write(&log, "one\ntwo\n").unwrap();
    let mut text = client.logs(false, Some(1)).await.unwrap();
    assert_eq!(text.chunk().await.unwrap().unwrap(), "two\n");
    assert_eq!(text.chunk().await.unwrap(), None);

    let mut text = client.logs(true, Some(0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b"three\n").unwrap();
    assert_eq!(text.chunk().await.unwrap().unwrap(), "three\n");
    std::fs::write(server.path().join("console.log"), "login: ").unwrap();
    let mut text = client.console(&builder(), false, None).await.unwrap();
    assert_eq!(text.chunk().await.unwrap().unwrap(), "login: ");
    std::fs::write(server.path().join("console-2.log"), "panic").unwrap();
    let mut earlier = client.console_of(&builder(), -2, false, None).await.unwrap();
    assert_eq!(earlier.chunk().await.unwrap().unwrap(), "panic");
    drop(server);
    assert_eq!(text.chunk().await.unwrap(), None, "a follower ends with the daemon");
}

#[tokio::test]
async fn what_is_known_of_boots_and_of_the_backend_comes_as_it_is() {
    let server = Server::new();
    let client = Client::new(server.path());
    assert_eq!(client.boots(&builder()).await.unwrap().boots, common::boots());
    let backend = client.capabilities(&builder()).await.unwrap();
    assert_eq!((backend.backend.as_str(), backend.search_path.as_str()), ("fake", "/fake/bin"));
    let unknown = "unknown".parse().unwrap();
    assert_eq!(client.boots(&unknown).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(client.capabilities(&unknown).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn shutdown_stops_the_guests_answers_and_ends_the_server_while_a_client_follows() {
    let server = Server::new();
    let client = Client::new(server.path());
    let _follower = client.logs(true, None).await.unwrap();
    let _events = client.events().await.unwrap();
    let begun = Instant::now();
    client.shut_down().await.unwrap();
    assert_eq!(server.calls(), ["shut down"]);
    server.join().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1500), "the grace period was not needed");
    let report = client.health().await.unwrap_err();
    assert_eq!(report.kind, Kind::NotRunning);
    assert!(report.message.starts_with("no daemon answers on "), "{report}");
}

#[test]
fn the_socket_is_for_its_owner_alone_and_replaces_a_stale_one() {
    let server = Server::new();
    let socket = server.path().join("api.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    drop(dvn_http::server::bind(&socket).unwrap());
    assert!(dvn_http::server::bind(&server.path().join("x".repeat(200))).is_err());
}

trait WithTimeout {
    async fn next_before(&mut self, time: Duration) -> Option<EventUpdate>;
}

impl WithTimeout for dvn_client::Events {
    async fn next_before(&mut self, time: Duration) -> Option<EventUpdate> {
        tokio::time::timeout(time, self.next()).await.ok().and_then(|next| next.unwrap())
    }
}
