//! Requests to the HTTP API. The input is `METHOD TARGET`, lines of headers, an empty line, and the body. It goes to
//! the routes of the Unix socket, and to those behind the guard of TCP; `!` as a header's last word stands for the
//! token.
//!
//! * Every request is answered. A failure is reported in JSON, and is never an internal error; no answer contains the
//!   token.
//! * A request that does not pass the guard has no effect.
//! * The daemon is called only for valid machine names, with sizes that this host has.

#![no_main]

use axum::{
    Router,
    body::Body,
    http::{Request, Response, header},
};
use common::Fake;
use darwin_vz_nix_fuzz::{assert_informative, in_virtual_time, scratch};
use dvn_config::{MAX_DISK, MIN_DISK, MIN_MEMORY};
use dvn_host::api_token::TokenFile;
use dvn_http::{router::router, tcp::Guard};
use dvn_types::Report;
use libfuzzer_sys::fuzz_target;
use std::{fs, net::SocketAddr, sync::Arc};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

#[path = "../../tests/common/mod.rs"]
mod common;

/// Longer than any other word.
const TOKEN: &str = "0123456789abcdef0123456789abcdef-hush";
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 31180);

fuzz_target!(|data: &[u8]| {
    if let Some(request) = request(data) {
        in_virtual_time(async {
            let (response, fake) = ask(request, |routes| routes).await;
            judge(response, &fake).await;
        });
    }
    if let Some(request) = request(data) {
        let passes = passes(&request);
        in_virtual_time(async {
            let (response, fake) = ask(request, |routes| guard().over(routes)).await;
            let turned_away = matches!(response.status().as_u16(), 401 | 403);
            assert_ne!(passes, turned_away, "{response:?}");
            assert!(passes || fake.calls.lock().expect("calls").is_empty());
            judge(response, &fake).await;
        });
    }
});

fn request(data: &[u8]) -> Option<Request<Body>> {
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (head, body) = (&data[..end], data.get(end + 2..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, target) = first.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let value = value[1..].trim_ascii();
        let value = match value.strip_suffix(b" !") {
            Some(scheme) => [scheme, b" ", TOKEN.as_bytes()].concat(),
            None => value.to_vec(),
        };
        request = request.header(name, value);
    }
    request.body(Body::from(body.to_vec())).ok()
}

fn guard() -> Guard {
    let file = scratch().join("api-token");
    fs::write(&file, TOKEN).expect("a token");
    Guard::new(SocketAddr::from(ADDRESS), TokenFile::at(file).expect("a token"))
}

/// Whether the request may pass, as docs/api.md defines it.
fn passes(request: &Request<Body>) -> bool {
    let only = |name| {
        let mut values = request.headers().get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(|value| value.as_bytes().to_ascii_lowercase())
    };
    let names = [&b"127.0.0.1:31180"[..], b"localhost:31180"];
    let host = only(header::HOST).is_some_and(|host| names.contains(&host.as_slice()));
    let target =
        request.uri().authority().is_none_or(|host| names.contains(&host.as_str().to_ascii_lowercase().as_bytes()));
    let bearer = only(header::AUTHORIZATION).is_some_and(|value| {
        value.strip_prefix(b"bearer ").is_some_and(|token| token.trim_ascii() == TOKEN.as_bytes())
    });
    host && target && bearer && !request.headers().contains_key(header::ORIGIN)
}

async fn ask(request: Request<Body>, over: impl FnOnce(Router) -> Router) -> (Response<Body>, Arc<Fake>) {
    let fake = Arc::new(Fake::new(scratch()));
    let stop = CancellationToken::new();
    let routes = over(router(fake.clone(), common::HOST, stop.clone()));
    let wait = tokio::time::timeout(std::time::Duration::from_secs(3600), routes.oneshot(request));
    let Ok(Ok(response)) = wait.await else {
        // `stuck` never boots, so its client disconnects.
        let calls = fake.calls.lock().expect("calls").concat();
        assert!(calls.contains("open stuck"), "no answer: {calls}");
        return (Response::new(Body::empty()), fake);
    };
    // Ends streaming answers.
    stop.cancel();
    (response, fake)
}

async fn judge(response: Response<Body>, fake: &Fake) {
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body of some length");
    let text = String::from_utf8_lossy(&body);
    assert!(!text.contains(TOKEN), "{text}");
    assert!(!status.is_server_error(), "{status}: {text}");
    if status.is_client_error() && !body.is_empty() {
        let report: Report = serde_json::from_slice(&body).unwrap_or_else(|why| panic!("{why}: {status} {text}"));
        assert_informative(&report);
    }
    for call in fake.calls.lock().expect("calls").iter() {
        let machine = ["builder", "stuck"].iter().any(|name| call.split(' ').any(|word| word == *name));
        assert!(machine || call == "shut down", "{call}");
    }
    for call in fake.calls.lock().expect("calls").iter().filter(|call| call.starts_with("start ")) {
        let asked = |name: &str| -> Option<u64> {
            let (_, value) = call.split_once(&format!("{name}: Some("))?;
            Some(value.split(')').next()?.parse().expect("a number"))
        };
        assert!(asked("cores").is_none_or(|n| (1..=u64::from(common::HOST.cores)).contains(&n)), "{call}");
        assert!(asked("memory").is_none_or(|n| (MIN_MEMORY..=common::HOST.memory).contains(&n)), "{call}");
        assert!(asked("disk_size").is_none_or(|n| (MIN_DISK..=MAX_DISK).contains(&n)), "{call}");
    }
}
