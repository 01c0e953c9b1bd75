//! The API's client: one connection for each call, over the daemon's Unix socket. What only machines of the library have is
//! in `library`.

mod library;
mod path;

use dvn_types::{
    Kind, MachineName, Report, Service,
    wire::{
        BackendView, BootList, ConfigView, Connections, DaemonStatus, DestroyRequest, Event, GenerationList,
        RollbackRequest, SOCKET_NAME, StartRequest, StopRequest, Stopped, Trimmed, UPGRADE,
    },
};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use path::path_of;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

/// The client of one daemon, addressed by its socket. The daemon need not run.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A connection to a service of the guest.
#[derive(Debug)]
pub struct RawStream {
    /// The stream; its next byte follows `early`.
    pub stream: UnixStream,
    /// Bytes that the guest sent together with the answer's head.
    pub early: Bytes,
}

impl Client {
    /// The daemon of that state directory.
    pub fn new(state_dir: &Path) -> Client {
        Client { socket: state_dir.join(SOCKET_NAME) }
    }

    /// Succeeds if the daemon serves requests.
    pub async fn health(&self) -> Result<(), Report> {
        self.call::<serde_json::Value>(Method::GET, "/v1/health", Bytes::new()).await.map(drop)
    }

    /// The status of the daemon and all machines, now.
    pub async fn status(&self) -> Result<DaemonStatus, Report> {
        self.call(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The same, once its generation exceeds `generation` or the timeout is over.
    pub async fn status_after(&self, generation: u64, timeout: Duration) -> Result<DaemonStatus, Report> {
        let path = format!("/v1/status?after={generation}&timeout={}", timeout.as_secs());
        self.call(Method::GET, &path, Bytes::new()).await
    }

    /// Boots a machine; returns when it runs.
    pub async fn start(&self, machine: &MachineName, request: &StartRequest) -> Result<(), Report> {
        self.post(&path_of(machine, "/start"), request).await
    }

    /// Stops a machine; returns when it is off, and how its guest ended.
    pub async fn stop(&self, machine: &MachineName, request: &StopRequest) -> Result<Stopped, Report> {
        self.send_json(Method::POST, &path_of(machine, "/stop"), request).await
    }

    /// Makes the guest discard its unused disk blocks on the host; starts it if needed.
    pub async fn trim(&self, machine: &MachineName) -> Result<Trimmed, Report> {
        self.call(Method::POST, &path_of(machine, "/trim"), Bytes::new()).await
    }

    /// Pauses a machine's guest; returns when it is paused.
    pub async fn pause(&self, machine: &MachineName) -> Result<(), Report> {
        self.order(&path_of(machine, "/pause")).await
    }

    /// Resumes it; returns when it answers.
    pub async fn resume(&self, machine: &MachineName) -> Result<(), Report> {
        self.order(&path_of(machine, "/resume")).await
    }

    /// The open connections.
    pub async fn connections(&self) -> Result<Connections, Report> {
        self.call(Method::GET, "/v1/connections", Bytes::new()).await
    }

    /// The daemon's settings.
    pub async fn config(&self) -> Result<ConfigView, Report> {
        self.call(Method::GET, "/v1/config", Bytes::new()).await
    }

    /// The daemon's metrics, in OpenMetrics.
    pub async fn metrics(&self) -> Result<String, Report> {
        let bytes = self.bytes("/v1/metrics").await?;
        String::from_utf8(bytes.into()).map_err(|error| strange(error.to_string()))
    }

    /// An answer that is not JSON.
    async fn bytes(&self, path: &str) -> Result<Bytes, Report> {
        let response = self.send(Method::GET, path, Bytes::new(), None).await?;
        Ok(response.into_body().collect().await.map_err(|error| gone(&error))?.to_bytes())
    }

    /// Stops a machine and deletes its state.
    pub async fn destroy(&self, machine: &MachineName, keep: DestroyRequest) -> Result<(), Report> {
        let DestroyRequest { keep_keys, keep_generations } = keep;
        let path = path_of(machine, &format!("?keepKeys={keep_keys}&keepGenerations={keep_generations}"));
        self.call::<serde_json::Value>(Method::DELETE, &path, Bytes::new()).await.map(drop)
    }

    /// The guest systems that a machine can boot.
    pub async fn generations(&self, machine: &MachineName) -> Result<GenerationList, Report> {
        self.call(Method::GET, &path_of(machine, "/generations"), Bytes::new()).await
    }

    /// Selects the generation of the next boot.
    pub async fn roll_back(&self, machine: &MachineName, request: &RollbackRequest) -> Result<(), Report> {
        self.post(&path_of(machine, "/generations/rollback"), request).await
    }

    /// Requests a build and a trial of the recipe; does not wait for them.
    pub async fn build_generation(&self, machine: &MachineName) -> Result<(), Report> {
        let path = path_of(machine, "/generations/build");
        self.call::<serde_json::Value>(Method::POST, &path, Bytes::new()).await.map(drop)
    }

    /// Deletes a generation.
    pub async fn delete_generation(&self, machine: &MachineName, number: u32) -> Result<(), Report> {
        let path = path_of(machine, &format!("/generations/{number}"));
        self.call::<serde_json::Value>(Method::DELETE, &path, Bytes::new()).await.map(drop)
    }

    /// Stops every guest and ends the daemon.
    pub async fn shut_down(&self) -> Result<(), Report> {
        self.order("/v1/shutdown").await
    }

    /// The daemon's log, or its last lines.
    pub async fn logs(&self, follow: bool, lines: Option<usize>) -> Result<Text, Report> {
        self.text("/v1/logs", follow, lines).await
    }

    /// A machine's console in its present or last boot, or the last lines of it.
    pub async fn console(&self, machine: &MachineName, follow: bool, lines: Option<usize>) -> Result<Text, Report> {
        self.console_of(machine, 0, follow, lines).await
    }

    /// A machine's console in one boot: 0 is the present or last boot, -1 the one before, a positive number that boot.
    pub async fn console_of(
        &self,
        machine: &MachineName,
        boot: i64,
        follow: bool,
        lines: Option<usize>,
    ) -> Result<Text, Report> {
        // Left out for 0, so that an older daemon understands the request.
        let boot = if boot == 0 { String::new() } else { format!("&boot={boot}") };
        self.text_of(&path_of(machine, "/console"), &boot, follow, lines).await
    }

    /// The capabilities of a machine's backend, as the daemon determines them.
    pub async fn capabilities(&self, machine: &MachineName) -> Result<BackendView, Report> {
        self.call(Method::GET, &path_of(machine, "/capabilities"), Bytes::new()).await
    }

    /// The records of a machine's last boots.
    pub async fn boots(&self, machine: &MachineName) -> Result<BootList, Report> {
        self.call(Method::GET, &path_of(machine, "/boots"), Bytes::new()).await
    }

    /// The log of the last build of a machine's recipe, or its last lines.
    pub async fn build_log(&self, machine: &MachineName, follow: bool, lines: Option<usize>) -> Result<Text, Report> {
        self.text(&path_of(machine, "/build-log"), follow, lines).await
    }

    /// The events from now on.
    pub async fn events(&self) -> Result<Events, Report> {
        let body = self.send(Method::GET, "/v1/events", Bytes::new(), None).await?.into_body();
        Ok(Events { text: Text { body }, pending: Vec::new() })
    }

    /// Opens a byte stream to a service of the guest; starts it if needed.
    pub async fn connect(&self, machine: &MachineName, service: Service) -> Result<RawStream, Report> {
        self.stream(&path_of(machine, &format!("/connect/{service}"))).await
    }

    async fn stream(&self, path: &str) -> Result<RawStream, Report> {
        let response = self.send(Method::GET, path, Bytes::new(), Some(UPGRADE)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(strange(format!("it answered {} to a request for a stream", response.status())));
        }
        if !names_our_stream(response.headers()) {
            return Err(strange("it switched to a protocol other than the requested one".to_owned()));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| gone(&error))?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| strange("the stream is of an unknown kind".to_owned()))?;
        Ok(RawStream { stream: parts.io.into_inner(), early: parts.read_buf })
    }

    async fn text(&self, path: &str, follow: bool, lines: Option<usize>) -> Result<Text, Report> {
        self.text_of(path, "", follow, lines).await
    }

    async fn text_of(&self, path: &str, more: &str, follow: bool, lines: Option<usize>) -> Result<Text, Report> {
        let lines = lines.map(|lines| format!("&lines={lines}")).unwrap_or_default();
        let path = format!("{path}?follow={follow}{lines}{more}");
        let response = self.send(Method::GET, &path, Bytes::new(), None).await?;
        Ok(Text { body: response.into_body() })
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Report> {
        self.send_json::<serde_json::Value>(Method::POST, path, body).await.map(drop)
    }

    async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Report> {
        let body = serde_json::to_vec(body).map_err(|error| strange(error.to_string()))?;
        self.call(method, path, body.into()).await
    }

    /// A request without a body and with an empty answer.
    async fn order(&self, path: &str) -> Result<(), Report> {
        self.call::<serde_json::Value>(Method::POST, path, Bytes::new()).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Report> {
        let response = self.send(method, path, body, None).await?;
        let bytes = response.into_body().collect().await.map_err(|error| gone(&error))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| strange(format!("its answer cannot be read: {error}")))
    }

    /// Sends one request on its own connection. An answer of 400 or more becomes the report that it contains.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: Option<&str>,
    ) -> Result<Response<Incoming>, Report> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
        // Ends with the connection; the answer shows an error.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = upgrade {
            request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, token);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| strange(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| gone(&error))?;
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await.map_err(|error| gone(&error))?.to_bytes();
        Err(serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| strange(format!("it answered {status} without saying why"))))
    }

    fn unreachable(&self, error: &io::Error) -> Report {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Report::new(Kind::NotRunning, format!("no daemon answers on {socket}"))
                    .hint("start one with `darwin-vz-nix start`, or in the foreground with `darwin-vz-nix daemon`")
                    .hint("if one runs with another state directory, pass it with --state-dir")
            }
            io::ErrorKind::PermissionDenied => {
                Report::new(Kind::Host, format!("this user may not connect to the daemon on {socket}"))
                    .hint("run this as the user the daemon runs as, or as root")
            }
            io::ErrorKind::InvalidInput => {
                Report::new(Kind::State, format!("the path {socket} is too long for a Unix socket"))
                    .hint("use a state directory with a shorter path: --state-dir")
            }
            _ => Report::new(Kind::NotRunning, format!("the daemon cannot be reached on {socket}: {error}"))
                .hint("see what is wrong with the state directory: `darwin-vz-nix doctor`"),
        }
    }
}

fn gone(error: &hyper::Error) -> Report {
    Report::new(Kind::NotRunning, format!("the daemon closed the connection: {error}"))
        .hint("its log says why: `darwin-vz-nix logs`")
}

fn strange(what: String) -> Report {
    Report::new(Kind::Internal, format!("the daemon's answer is invalid: {what}"))
        .hint("if this program was updated while the daemon ran, restart the daemon")
}

/// A text that arrives in pieces.
#[derive(Debug)]
pub struct Text {
    body: Incoming,
}

impl Text {
    /// The next piece; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Report> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|error| gone(&error))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// An item of the stream of events.
#[derive(Clone, Debug, PartialEq)]
pub enum EventUpdate {
    /// Something happened.
    Event(Event),
    /// The reader was too slow and missed this many events.
    Lagged(u64),
}

/// The stream of events.
#[derive(Debug)]
pub struct Events {
    text: Text,
    pending: Vec<u8>,
}

impl Events {
    /// The next item; `None` when the daemon ends.
    pub async fn next(&mut self) -> Result<Option<EventUpdate>, Report> {
        loop {
            while let Some(end) = self.pending.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.pending.drain(..end + 2).collect();
                if let Some(update) = read_event(&String::from_utf8_lossy(&block))? {
                    return Ok(Some(update));
                }
            }
            match self.text.chunk().await? {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// One block of the stream; `None` for a comment, which only keeps the connection alive.
fn read_event(block: &str) -> Result<Option<EventUpdate>, Report> {
    let field =
        |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_start);
    let Some(data) = field("data") else { return Ok(None) };
    let update = match field("event") {
        Some("lagged") => data.parse().map(EventUpdate::Lagged).map_err(|error| error.to_string()),
        Some(other) => Err(format!("{other}: {data}")),
        None => serde_json::from_str(data).map(EventUpdate::Event).map_err(|error| error.to_string()),
    };
    update.map(Some).map_err(strange)
}

/// Whether the server switches to the requested protocol.
fn names_our_stream(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::UPGRADE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| item.trim().eq_ignore_ascii_case(UPGRADE))
}
