//! The API's server: axum on a Unix socket and, where configured, on loopback TCP. The routes are in [`super::router`].

pub use super::refusal::status_of;
use super::{
    accept::{self, Bounds},
    connection_limits,
    control::Control,
    router::router,
    tcp::Guard,
};
use dvn_config::HostFacts;
use dvn_host::{api_token::TokenFile, files::move_aside};
use dvn_types::{Kind, Report};
use std::{fs, io, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

/// How long requests may take to end once the daemon stops.
const GRACE: Duration = Duration::from_secs(2);

/// Binds the API's socket with mode 0600, replacing that of a dead daemon. Call it under the state lock.
pub fn bind(path: &std::path::Path) -> Result<UnixListener, Report> {
    let failed = |error: io::Error| {
        Report::new(Kind::State, format!("the API's socket {} cannot be made: {error}", path.display())).hint(
            "check the state directory's permissions and the length of its path, or name another with --state-dir",
        )
    };
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => move_aside(path).map(drop),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // The state directory is 0700, so no other user can connect before this.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves until `stop` is cancelled, which `POST /v1/shutdown` does too, after [`Control::shut_down`].
pub async fn serve(
    listener: UnixListener,
    control: Arc<dyn Control>,
    host: HostFacts,
    stop: CancellationToken,
) -> Result<(), Report> {
    let routes = connection_limits::with_slots(router(control, host, stop.clone()));
    let server = accept::serve("the API's Unix socket", listener, routes, Bounds::UNIX, stop.clone());
    until_stopped(server, &stop).await;
    Ok(())
}

/// The same on loopback TCP, for requests that pass the guard of [`super::tcp`].
pub async fn serve_tcp(
    listener: TcpListener,
    token: TokenFile,
    control: Arc<dyn Control>,
    host: HostFacts,
    stop: CancellationToken,
) -> Result<(), Report> {
    let failed = |error| Report::new(Kind::Internal, format!("the API's TCP socket has no address: {error}"));
    let guard = Guard::new(listener.local_addr().map_err(failed)?, token);
    let routes = guard.over(connection_limits::with_slots(router(control, host, stop.clone())));
    let server = accept::serve("the API's TCP socket", listener, routes, Bounds::TCP, stop.clone());
    until_stopped(server, &stop).await;
    Ok(())
}

async fn until_stopped(server: impl Future<Output = ()>, stop: &CancellationToken) {
    tokio::select! {
        () = server => {}
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {}
    }
}
