//! A daemon with its API on TCP, with unauthenticated clients, and with clients that take more than they need.

use super::{program, run};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Maximum time of an answer for the owner. Limits on connections are 10 s, so waiting for one of them shows.
const SOON: Duration = Duration::from_secs(8);

/// Time within which everything with a limit has ended, even on a busy computer.
const IN_TIME: Duration = Duration::from_secs(30);

struct Daemon {
    dir: tempfile::TempDir,
    address: SocketAddr,
    token: String,
}

impl Daemon {
    fn new() -> Daemon {
        let dir = crate::common::private_dir();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!("listen = \"127.0.0.1:0\"\napi-listen = \"{address}\"\n");
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        // There is no guest to start; the daemon stays.
        run(dir.path(), &["start"]);
        let token = std::fs::read_to_string(dir.path().join("api-token")).unwrap().trim().to_owned();
        Daemon { dir, address, token }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(IN_TIME)).unwrap();
        stream
    }

    /// The head of a request with the token, without its last line.
    fn head(&self, request: &str) -> String {
        format!("{request} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n", self.address, self.token)
    }

    fn refused(&self) -> String {
        format!("GET /v1/health HTTP/1.1\r\nHost: {}\r\n\r\n", self.address)
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut stream = self.dial();
        stream.write_all(format!("{}\r\n", self.head(request)).as_bytes()).unwrap();
        stream
    }

    /// A request of the owner on a new connection is answered soon.
    fn answers(&self, among: &str) {
        let begun = Instant::now();
        let mut stream = self.dial();
        stream.write_all(format!("{}Connection: close\r\n\r\n", self.head("GET /v1/health")).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{among}: {error}"));
        assert_eq!(status(&answer), 200, "{among}: {answer}");
        assert!(begun.elapsed() < SOON, "{among}: {:?}", begun.elapsed());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = program(self.path(), &["stop", "--daemon"]).output();
    }
}

fn status(answer: &str) -> u16 {
    answer.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

/// Reads until the answer's head is complete.
fn answer_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads the rest; a close with unread bytes also counts as the end.
fn rest(mut stream: impl Read) -> String {
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        all.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_crowd_without_the_token_does_not_block_its_owner() {
    let daemon = Daemon::new();
    for (among, first_words) in [
        ("silent connections", String::new()),
        ("halves of heads", "GET /v1/health HTTP/1.1\r\nHost: x\r\n".to_owned()),
        ("refused requests", daemon.refused()),
        ("bodies of refused requests", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".to_owned()),
    ] {
        let crowd: Vec<_> = (0..400)
            .map(|_| {
                let mut stream = daemon.dial();
                // The connection may be closed by now.
                let _ = stream.write_all(first_words.as_bytes());
                stream
            })
            .collect();
        for _ in 0..3 {
            daemon.answers(among);
        }
        drop(crowd);
    }
}

#[test]
fn a_crowd_that_dials_all_the_time_does_not_block_the_owner() {
    let daemon = Daemon::new();
    let mut kept = daemon.send("GET /v1/health");
    answer_head(&mut kept);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for first_words in [String::new(), "GET / HTTP/1.1\r\n".to_owned(), daemon.refused()] {
            let (address, over) = (daemon.address, &over);
            scope.spawn(move || {
                let mut held = VecDeque::new();
                while !over.load(Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    let _ = stream.write_all(first_words.as_bytes());
                    held.push_back(stream);
                    if held.len() > 300 {
                        held.pop_front();
                    }
                }
            });
        }
        // The other threads must see the end, even after a panic.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..5 {
                daemon.answers("a crowd that dials");
                rest_of_one_answer(&mut kept);
                kept.write_all(format!("{}\r\n", daemon.head("GET /v1/health")).as_bytes()).unwrap();
                assert_eq!(status(&answer_head(&mut kept)), 200, "an authenticated connection is not evicted");
            }
        }));
        over.store(true, Relaxed);
        outcome.unwrap();
    });
}

/// The body of the answer to `/v1/health`.
fn rest_of_one_answer(stream: &mut TcpStream) {
    let mut body = [0; 2];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"{}");
}

#[test]
fn a_refused_request_closes_its_connection() {
    let daemon = Daemon::new();
    let owner = daemon.head("GET /v1/health");
    for refused in [
        daemon.refused(),
        format!("{owner}Authorization: Bearer x\r\n\r\n"),
        format!("{owner}Origin: http://x\r\n\r\n"),
        format!("{owner}Host: x\r\n\r\n"),
    ] {
        let mut stream = daemon.dial();
        // A second request behind the first gets no answer.
        stream.write_all(format!("{refused}{owner}\r\n").as_bytes()).unwrap();
        let answer = rest(stream);
        assert!(matches!(status(&answer), 401 | 403), "{refused}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
}

#[test]
fn everything_that_a_client_may_take_its_time_for_is_bounded() {
    let daemon = Daemon::new();
    let post = |head: String| format!("{head}Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n");
    let socket = daemon.path().join("api.sock");
    let unix = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(IN_TIME)).unwrap();
        stream
    };
    let local = "POST /v1/machines/builder/stop HTTP/1.1\r\nHost: x\r\n".to_owned();
    thread::scope(|scope| {
        let drips = |first: String, drip: &'static str, status: Option<u16>, tcp: bool| {
            let (daemon, unix) = (&daemon, &unix);
            scope.spawn(move || {
                let case = format!("{first:?} and then {drip:?}, tcp {tcp}");
                if tcp {
                    let stream = daemon.dial();
                    ends_in_time(&case, stream.try_clone().unwrap(), stream, &first, drip, status);
                } else {
                    let stream = unix();
                    ends_in_time(&case, stream.try_clone().unwrap(), stream, &first, drip, status);
                }
            });
        };
        for (tcp, head) in [(true, daemon.head("POST /v1/machines/builder/stop")), (false, local)] {
            drips(String::new(), "", None, tcp);
            drips(head.clone(), "x", None, tcp);
            drips(post(head.clone()), " ", Some(408), tcp);
            drips(post(head.clone()), "", Some(408), tcp);
            drips(format!("{head}Transfer-Encoding: chunked\r\n\r\n"), "1\r\n \r\n", Some(408), tcp);
            // A connection that was answered, and is silent since.
            drips(format!("{head}\r\n"), "", Some(200), tcp);
        }
    });
}

/// Sends the first part at once, then small pieces. The connection must end all the same, with this status if any.
fn ends_in_time(
    case: &str,
    mut writes: impl Write + Send,
    reads: impl Read,
    first: &str,
    drip: &str,
    expected: Option<u16>,
) {
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let answer = thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            let mut alive = writes.write_all(first.as_bytes()).is_ok();
            while alive && !over.load(Relaxed) {
                thread::sleep(Duration::from_millis(100));
                alive = writes.write_all(drip.as_bytes()).is_ok();
            }
        });
        let answer = rest(reads);
        over.store(true, Relaxed);
        answer
    });
    assert!(begun.elapsed() < IN_TIME, "{case}: {:?}", begun.elapsed());
    match expected {
        Some(expected) => assert_eq!(status(&answer), expected, "{case}: {answer}"),
        None => assert!(answer.is_empty() || status(&answer) >= 400, "{case}: {answer}"),
    }
}

#[test]
fn streams_have_a_limit_of_their_own_and_one_too_many_gets_503() {
    const MOST: usize = 32;
    const TOO_MANY: usize = 8;
    for request in [
        "GET /v1/events",
        "GET /v1/logs?follow=true",
        "GET /v1/machines/builder/console?follow=true",
        "GET /v1/machines/builder/build-log?follow=true",
        "GET /v1/status?after=99999999",
    ] {
        let daemon = Daemon::new();
        // Only refused requests have an answer that ends.
        let mut watchers: Vec<_> = (0..MOST + TOO_MANY).map(|_| daemon.send(request)).collect();
        let begun = Instant::now();
        let mut refused = Vec::new();
        while refused.len() < TOO_MANY {
            assert!(begun.elapsed() < IN_TIME, "{request}: {} are refused", refused.len());
            let (now_refused, others) =
                watchers.into_iter().partition(|stream| start_of(stream).contains("HTTP/1.1 503"));
            watchers = others;
            refused.extend::<Vec<_>>(now_refused);
            thread::sleep(Duration::from_millis(20));
        }
        let mut refused = refused.pop().unwrap();
        let head = answer_head(&mut refused);
        assert!(head.to_ascii_lowercase().contains("\r\nretry-after: "), "{head}");
        let mut body = Vec::new();
        BufReader::new(refused).read_until(b'}', &mut body).unwrap();
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains("\"busy\"") && body.contains("32 clients follow"), "{body}");
        assert_eq!(status(&answer_head(&mut daemon.send("GET /v1/events"))), 503, "whichever it is");
        for _ in 0..3 {
            daemon.answers(request);
        }
        assert!(watchers.iter().all(|stream| !start_of(stream).contains("HTTP/1.1 503")), "{request}");
        watchers.pop();
        let begun = Instant::now();
        while status(&answer_head(&mut daemon.send("GET /v1/events"))) != 200 {
            assert!(begun.elapsed() < IN_TIME, "one that has ended frees its place: {request}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The start of the answer so far, without consuming it.
fn start_of(stream: &TcpStream) -> String {
    let mut start = [0; 32];
    stream.set_nonblocking(true).unwrap();
    let read = stream.peek(&mut start).unwrap_or(0);
    stream.set_nonblocking(false).unwrap();
    String::from_utf8_lossy(&start[..read]).into_owned()
}
