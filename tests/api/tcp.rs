//! The API on loopback TCP, as clients, other users and web pages reach it.

use super::common::Server;
use dvn_host::api_token::Token;
use dvn_types::{Kind, Report};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

fn token(server: &Server) -> String {
    fs::read_to_string(server.path().join("api-token")).unwrap().trim().to_owned()
}

/// Sends that head; returns the raw answer.
fn answer(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> u16 {
    answer.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_token_is_asked_for_and_no_other_will_do() {
    let server = Server::on_tcp("127.0.0.1:0");
    let (address, token) = (server.tcp.unwrap(), token(&server));
    let ask =
        |authorization: &str| answer(address, &format!("GET /v1/health HTTP/1.1\r\nHost: {address}{authorization}"));
    assert_eq!(status(&ask(&format!("\r\nAuthorization: Bearer {token}"))), 200);
    assert_eq!(status(&ask(&format!("\r\nauthorization: bearer {token}"))), 200, "the scheme's letters don't matter");
    let longer = format!("{token}0");
    let (shorter, last) = token.split_at(token.len() - 1);
    let almost = format!("{shorter}{}", if last == "0" { "1" } else { "0" });
    for wrong in [
        "Bearer ",
        "Bearer",
        "Basic eDp5",
        &token,
        &format!("Bearer {longer}"),
        &format!("Bearer {shorter}"),
        &format!("Bearer {almost}"),
        &format!("Bearer {token}\r\nAuthorization: Bearer {token}"),
    ] {
        let answer = ask(&format!("\r\nAuthorization: {wrong}"));
        assert_eq!(status(&answer), 401, "{wrong}");
    }
    let answer = ask("");
    assert_eq!(status(&answer), 401);
    assert!(answer.to_ascii_lowercase().contains("\r\nwww-authenticate: bearer\r\n"), "{answer}");
    let report: Report = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(report.kind == Kind::Host && report.hints[0].contains("api-token"), "{report:?}");
    // Without the token, a missing resource is not distinguished, and nothing is executed.
    assert_eq!(status(&super::tcp::answer(address, &format!("GET /nothing HTTP/1.1\r\nHost: {address}"))), 401);
    assert_eq!(status(&super::tcp::answer(address, &format!("POST /v1/shutdown HTTP/1.1\r\nHost: {address}"))), 401);
    assert!(server.calls().is_empty());
}

#[test]
fn a_new_token_counts_from_the_next_request_on() {
    let server = Server::on_tcp("127.0.0.1:0");
    let (address, old) = (server.tcp.unwrap(), token(&server));
    let file = server.path().join("api-token");
    let ask = |token: &str| {
        let head = format!("GET /v1/health HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}");
        status(&answer(address, &head))
    };
    // A stream that was accepted, and stays open.
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        format!("GET /v1/machines/builder/connect/ssh HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {old}");
    write!(stream, "{head}\r\nConnection: upgrade\r\nUpgrade: darwin-vz-stream\r\n\r\n").unwrap();
    assert_eq!(ask(&old), 200);
    Token::rotate(&file).unwrap();
    let new = token(&server);
    assert_eq!((ask(&old), ask(&new)), (401, 200));
    // A missing file and one without a valid token both refuse every request.
    fs::remove_file(&file).unwrap();
    assert_eq!((ask(&old), ask(&new), ask("")), (401, 401, 401));
    fs::write(&file, "\n").unwrap();
    assert_eq!((ask(&new), ask("")), (401, 401));
    fs::write(&file, &new).unwrap();
    assert_eq!((ask(&old), ask(&new)), (401, 200));
    stream.write_all(b"hello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert!(heard.starts_with("HTTP/1.1 101 ") && heard.ends_with("SSH-2.0-fake\r\nhello"), "{heard}");
}

#[test]
fn a_web_page_gets_nothing_whatever_name_it_has() {
    let server = Server::on_tcp("127.0.0.1:0");
    let (address, token) = (server.tcp.unwrap(), token(&server));
    let port = address.port();
    let own = address.to_string();
    let localhost = format!("LocalHost:{port}");
    let ask = |target: &str, headers: &str| {
        let head = format!("POST {target} HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: 0{headers}");
        answer(address, &head)
    };
    let stop = "/v1/machines/builder/stop";
    let rebound = format!("\r\nHost: evil.example:{port}");
    let absolute = format!("http://evil.example:{port}{stop}");
    let page = |origin: &str| format!("\r\nHost: {own}\r\nOrigin: {origin}");
    for (target, headers, why) in [
        (stop, rebound.as_str(), "another host"),
        (stop, "\r\nHost: 127.0.0.1", "another host"),
        (stop, "\r\nHost: 127.0.0.1:1", "another host"),
        (stop, &format!("\r\nHost: {own}.evil.example"), "another host"),
        (stop, "", "another host"),
        (stop, &format!("\r\nHost: {own}\r\nHost: {own}"), "another host"),
        (&absolute, &format!("\r\nHost: {own}"), "another host"),
        (stop, &page("http://evil.example"), "a web page"),
        (stop, &page("null"), "a web page"),
        (stop, &page(&format!("http://{own}")), "a web page"),
    ] {
        let answer = ask(target, headers);
        assert_eq!(status(&answer), 403, "{target}{headers}");
        let report: Report = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(report.message.contains(why), "{report:?}");
        assert!(!answer.to_ascii_lowercase().contains("access-control-"), "there is no CORS: {answer}");
    }
    assert!(server.calls().is_empty());
    for host in [&own, &localhost] {
        assert_eq!(status(&ask(stop, &format!("\r\nHost: {host}"))), 200, "{host}");
    }
    let preflight = format!(
        "OPTIONS {stop} HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: POST"
    );
    let answer = answer(address, &preflight);
    assert_eq!(status(&answer), 403);
    assert!(!answer.to_ascii_lowercase().contains("access-control-"), "{answer}");
}

#[test]
fn ipv6_loopback_has_its_own_name() {
    let server = Server::on_tcp("[::1]:0");
    let (address, token) = (server.tcp.unwrap(), token(&server));
    let port = address.port();
    let ask = |host: &str| {
        status(&answer(address, &format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}")))
    };
    assert_eq!(ask(&format!("[::1]:{port}")), 200);
    assert_eq!(ask(&format!("localhost:{port}")), 200);
    assert_eq!(ask(&format!("127.0.0.1:{port}")), 403);
    assert_eq!(ask("[::1]"), 403);
}

#[test]
fn a_stream_to_the_guest_goes_over_tcp_too() {
    let server = Server::on_tcp("127.0.0.1:0");
    let (address, token) = (server.tcp.unwrap(), token(&server));
    let mut stream = TcpStream::connect(address).unwrap();
    let head =
        format!("GET /v1/machines/builder/connect/ssh HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}");
    write!(stream, "{head}\r\nConnection: upgrade\r\nUpgrade: darwin-vz-stream\r\n\r\nhello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("SSH-2.0-fake\r\nhello"), "{answer}");
}
