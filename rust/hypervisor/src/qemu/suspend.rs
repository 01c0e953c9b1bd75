//! Saves a guest's memory and devices to a file, and loads them: a migration in QEMU's terms.
//!
//! ```text
//!  save:  stop ─▶ migrate unix:SOCKET ─▶ this program copies to the file ─▶ completed ─▶ record ─▶ the caller ends QEMU
//!  load:  migrate-incoming unix:SOCKET ─▶ this program copies from the file ─▶ completed; the guest is paused
//! ```
//!
//! QEMU gets a socket for all its versions. From 8.2 on it can write to a file itself; before, it would have to start a
//! program that writes the file, for which QEMU's own sandbox kills it.

use super::{firmware::Firmware, qmp::Qmp};
use crate::{
    saved::{self, Facts, Saving},
    spec::MachineSpec,
};
use dvn_host::files::state_error;
use dvn_types::{Kind, Report};
use serde_json::json;
use std::{
    fs::File,
    io,
    net::Shutdown,
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::{Path, PathBuf},
};
use tokio::{net::UnixListener, task::spawn_blocking};

/// Bandwidth in bytes a second, more than any disk has. QEMU's default is for shared networks.
const NO_LIMIT: u64 = 1 << 40;

/// The facts that a state of this machine depends on. Blocks.
pub fn facts(spec: &MachineSpec, firmware: Option<&Firmware>) -> Result<Facts, Report> {
    let size = firmware.map(Firmware::size).transpose()?;
    let firmware = size.map(|bytes| ("firmware", format!("{bytes} bytes")));
    saved::facts("qemu", spec, firmware.as_slice())
}

/// The error for a guest that was not saved.
pub fn cannot(why: String) -> Report {
    Report::new(Kind::Guest, format!("cannot suspend the guest: {why}"))
}

/// Saves a guest in `state`, which is complete afterwards, and leaves the guest paused. After an error there is no state, and
/// the guest is resumed unless it was paused before. `facts` are taken while the guest is paused.
pub async fn save(
    qmp: &Qmp,
    socket: &Path,
    state: PathBuf,
    facts: impl FnOnce() -> Result<Facts, Report> + Send + 'static,
) -> Result<(), Report> {
    // First, so that a second call does not touch the state of the first.
    let listener = UnixListener::bind(socket).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => cannot("it is being suspended already".to_owned()),
        _ => cannot(e.to_string()),
    })?;
    let saved = save_through(qmp, socket, listener, state, facts).await;
    let _ = std::fs::remove_file(socket);
    saved
}

async fn save_through(
    qmp: &Qmp,
    socket: &Path,
    listener: UnixListener,
    state: PathBuf,
    facts: impl FnOnce() -> Result<Facts, Report> + Send + 'static,
) -> Result<(), Report> {
    let saving = blocking(move || Saving::begin(&state)).await?;
    let file = create(saving.path())?;
    let ran = qmp.run("query-status").await.map_err(cannot)?["running"] == true;
    let saved = match stream_out(qmp, socket, listener, file).await {
        Ok(()) => blocking(move || saving.finish(facts()?, None)).await,
        Err(why) => Err(cannot(why)),
    };
    if saved.is_err() && ran {
        let _ = qmp.run("cont").await;
    }
    saved
}

/// Creates the file for a guest's memory, readable by its owner only.
fn create(path: &Path) -> Result<File, Report> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|e| state_error(path, "cannot save the guest in", &e))
}

/// Runs blocking work.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Report> + Send + 'static,
) -> Result<T, Report> {
    spawn_blocking(work).await.map_err(|e| cannot(e.to_string()))?
}

async fn stream_out(qmp: &Qmp, socket: &Path, listener: UnixListener, mut to: File) -> Result<(), String> {
    prepare(qmp).await?;
    qmp.run("stop").await?;
    let mut migration = qmp.migration();
    qmp.run_with("migrate", json!({ "uri": uri(socket)? })).await?;
    let accepted = tokio::select! {
        accepted = listener.accept() => accepted,
        ended = migration.done() => return Err(ended.err().unwrap_or_else(|| "QEMU saved nothing".to_owned())),
    };
    let mut stream = accepted.and_then(|(stream, _)| blocking_stream(stream)).map_err(|e| e.to_string())?;
    let copied = spawn_blocking(move || io::copy(&mut stream, &mut to).and_then(|_| to.sync_all()));
    // A failed copy closes QEMU's connection, and a failed migration ends the copy. Wait for both; the copy's error
    // says more.
    let copied = copied.await.map_err(|e| e.to_string())?;
    let migrated = migration.done().await;
    copied.map_err(|e| format!("its memory cannot be written: {e}"))?;
    migrated
}

/// Loads a state into a QEMU that waits for one. The guest is paused afterwards.
pub async fn load(qmp: &Qmp, socket: &Path, from: PathBuf) -> Result<(), String> {
    prepare(qmp).await?;
    let mut migration = qmp.migration();
    qmp.run_with("migrate-incoming", json!({ "uri": uri(socket)? })).await?;
    // QEMU listens once it has answered.
    let socket = socket.to_owned();
    let copied = spawn_blocking(move || {
        let mut file = dvn_host::regular_file::open(&from)?;
        let mut stream = UnixStream::connect(socket)?;
        io::copy(&mut file, &mut stream)?;
        stream.shutdown(Shutdown::Write)
    });
    let copied = copied.await.map_err(|e| e.to_string())?;
    match copied {
        Ok(()) => migration.done().await,
        // QEMU closed the connection, and reports why.
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Err(migration.done().await.err().unwrap_or_else(|| "QEMU did not take all of it".to_owned()))
        }
        Err(e) => Err(format!("its memory cannot be read: {e}")),
    }
}

async fn prepare(qmp: &Qmp) -> Result<(), String> {
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    qmp.run_with("migrate-set-capabilities", events).await?;
    qmp.run_with("migrate-set-parameters", json!({ "max-bandwidth": NO_LIMIT })).await.map(drop)
}

fn uri(socket: &Path) -> Result<String, String> {
    let path = socket.to_str().ok_or_else(|| format!("the path {} is not UTF-8", socket.display()))?;
    Ok(format!("unix:{path}"))
}

fn blocking_stream(stream: tokio::net::UnixStream) -> io::Result<UnixStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
