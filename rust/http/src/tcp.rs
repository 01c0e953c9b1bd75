//! Authentication of the TCP API. Any local user, and any web page in a local browser, can connect to a loopback port.
//!
//! ```text
//!   Host names this very socket? ── no ─▶ 403    a page of another site, whose name points here (DNS rebinding)
//!   no Origin? ──────────────────── no ─▶ 403    a page of any site; there is no CORS, as no page may use the API
//!   the token? ──────────────────── no ─▶ 401    another user
//! ```
//!
//! The rule: no part of a request is processed before it has passed all three. The token is read from its file each
//! time, so a leaked token is replaced without a restart: `darwin-vz-nix token --rotate`.

use super::refusal::{Answer, Refusal};
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use dvn_host::api_token::TokenFile;
use dvn_types::{Kind, Report};
use std::{net::SocketAddr, sync::Arc};

/// The guard before the routes of one TCP socket.
#[derive(Clone)]
pub struct Guard(Arc<Inner>);

struct Inner {
    /// The values of the header Host that address this socket.
    names: Vec<String>,
    token: TokenFile,
}

impl Guard {
    /// The guard of the socket with this address.
    pub fn new(address: SocketAddr, token: TokenFile) -> Guard {
        let port = address.port();
        let names = vec![address.to_string(), format!("localhost:{port}")];
        Guard(Arc::new(Inner { names, token }))
    }

    /// Puts those routes behind this guard.
    pub fn over(self, routes: Router) -> Router {
        routes.layer(middleware::from_fn_with_state(self, guard_request))
    }

    fn check(&self, request: &Request) -> Answer<()> {
        let headers = request.headers();
        let refused = |status, what: &str, hint: String| {
            // The connection closes, so that it takes no place from others.
            Err(Refusal::new(status, Report::new(Kind::Host, what).hint(hint)).closing())
        };
        let hosts: Vec<&HeaderValue> = headers.get_all(header::HOST).iter().collect();
        let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let meant = |name: &[u8]| self.0.names.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name));
        if hosts.len() != 1 || !hosts.iter().all(|host| meant(host.as_bytes())) || !named.is_none_or(meant) {
            let hint = format!("the header Host must say {}", self.0.names.join(" or "));
            return refused(StatusCode::FORBIDDEN, "the request is for another host", hint);
        }
        if headers.contains_key(header::ORIGIN) {
            let hint = "leave the header Origin out; web pages may not use the API".to_owned();
            return refused(StatusCode::FORBIDDEN, "the request comes from a web page", hint);
        }
        if !bearer(headers).is_some_and(|given| self.0.token.admits(given)) {
            let hint = "send the header Authorization: Bearer TOKEN, with what `darwin-vz-nix token` prints (the state \
                        directory's file api-token)";
            let what = "the request lacks the token, or has a wrong one";
            let refused = refused(StatusCode::UNAUTHORIZED, what, hint.to_owned());
            return refused
                .map_err(|refusal| refusal.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        Ok(())
    }
}

async fn guard_request(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The token of the only Authorization header.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (only, None) = (given.next()?, given.next()) else { return None };
    let (scheme, token) = only.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
