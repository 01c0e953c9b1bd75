//! Headers by the rules of HTTP: in any case, as lists, and in several lines.

use super::common::Server;
use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

/// Sends exactly that; returns all that is answered until the connection ends or is silent.
fn sent(server: &Server, request: &str) -> String {
    let mut stream = UnixStream::connect(server.path().join("api.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // An error also counts as the end: the server has closed the connection with unread bytes.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

const STREAM: &str = "/v1/machines/builder/connect/ssh";

#[test]
fn a_stream_begins_only_if_both_headers_ask_for_it_wherever_they_stand() {
    let server = Server::new();
    for (headers, expected) in [
        ("Connection: upgrade\r\nUpgrade: darwin-vz-stream", 101),
        ("cONNECTION: UPGRADE\r\nuPGRADE: DARWIN-VZ-STREAM", 101),
        ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket, darwin-vz-stream", 101),
        ("Connection: keep-alive\r\nUpgrade: websocket\r\nConnection: upgrade\r\nUpgrade: darwin-vz-stream", 101),
        ("Upgrade: darwin-vz-stream\r\nConnection: ,,upgrade,", 101),
        ("Upgrade: darwin-vz-stream", 426),
        ("Connection: upgrade", 426),
        ("Connection: keep-alive\r\nUpgrade: darwin-vz-stream", 426),
        ("Connection: close\r\nUpgrade: darwin-vz-stream", 426),
        ("Connection: upgraded\r\nUpgrade: darwin-vz-stream", 426),
        ("Connection: upgrade\r\nUpgrade: websocket", 426),
        ("Connection: upgrade\r\nUpgrade: darwin-vz-stream/2", 426),
        ("Connection: upgrade\r\nUpgrade: darwin-vz-stream;x", 426),
        ("Connection: darwin-vz-stream\r\nUpgrade: upgrade", 426),
    ] {
        let answer = sent(&server, &format!("GET {STREAM} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\nhello"));
        assert_eq!(status(&answer), expected, "{headers}: {answer}");
        let head = answer.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
        assert!(head.contains("\r\nupgrade: darwin-vz-stream"), "{headers}: {answer}");
        assert!(head.contains("\r\nconnection: upgrade"), "{headers}: {answer}");
        assert_eq!(answer.contains("SSH-2.0-fake\r\nhello"), expected == 101, "{headers}: {answer}");
    }
    let asked = server.calls().len();
    for (request, expected) in [
        (format!("GET {STREAM} HTTP/1.0"), 426),
        (format!("HEAD {STREAM} HTTP/1.1"), 405),
        (format!("POST {STREAM} HTTP/1.1"), 405),
        (format!("GET {STREAM} HTTP/1.1\r\nContent-Length: 3"), 400),
        (format!("GET {STREAM} HTTP/1.1\r\nTransfer-Encoding: chunked"), 400),
    ] {
        let headers = "Host: x\r\nConnection: upgrade\r\nUpgrade: darwin-vz-stream";
        let answer = sent(&server, &format!("{request}\r\n{headers}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
        assert_eq!(status(&answer), expected, "{request}: {answer}");
        assert!(!answer.contains("SSH-2.0-fake"), "{request}: {answer}");
    }
    assert_eq!(server.calls().len(), asked, "what is refused starts nothing");
}

#[test]
fn every_line_of_a_header_counts() {
    let server = Server::new();
    let json = "Content-Type: application/json";
    for (headers, expected) in [
        (json.to_owned(), 200),
        (format!("{json}\r\n{json}"), 415),
        (format!("{json}\r\nContent-Type: text/plain"), 415),
        (format!("{json}\r\nContent-Encoding: gzip"), 415),
        (format!("{json}\r\nContent-Encoding: identity\r\nContent-Encoding: gzip"), 415),
        (format!("{json}\r\nContent-Length: 14\r\nContent-Length: 14"), 200),
        (format!("{json}\r\nContent-Length: 14\r\nContent-Length: 15"), 400),
        // The last coding is that of all lines together.
        ("Connection: close\r\nConnection: keep-alive".to_owned(), 200),
    ] {
        let length = if headers.contains("Content-Length") { "" } else { "Content-Length: 14\r\n" };
        let head = format!("POST /v1/machines/builder/stop HTTP/1.1\r\nHost: x\r\n{length}{headers}\r\n\r\n");
        let answer = sent(&server, &format!("{head}{{\"force\":true}}"));
        assert_eq!(status(&answer), expected, "{headers}: {answer}");
    }
}
