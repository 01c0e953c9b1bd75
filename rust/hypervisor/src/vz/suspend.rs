//! Saves a guest: pauses it, saves it, and resumes it if that fails.

use super::{
    bridge::{Done, Machine},
    reason::describe,
};
use crate::{
    saved::{self, Facts, Saving},
    spec::MachineSpec,
};
use dvn_types::{Kind, Report};
use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};
use tokio::task::spawn_blocking;

/// The facts that a state of this machine depends on. Blocks.
pub fn facts(spec: &MachineSpec) -> Result<Facts, Report> {
    saved::facts("vz", spec, &[])
}

/// The error for a guest that was not saved.
pub fn cannot(why: String) -> Report {
    Report::new(Kind::Guest, format!("cannot suspend the guest: {why}"))
}

/// Runs blocking work.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Report> + Send + 'static,
) -> Result<T, Report> {
    spawn_blocking(work).await.map_err(|e| cannot(e.to_string()))?
}

/// The machine, if it still exists.
pub fn alive(machine: &Weak<Machine>) -> Result<Arc<Machine>, Report> {
    machine.upgrade().ok_or_else(|| Report::new(Kind::Guest, "the guest is gone"))
}

/// Sends a request to the machine. Holds it only to send: it must be possible to drop it while the answer is pending.
pub async fn ask<D: Done>(
    machine: &Weak<Machine>,
    what: &str,
    question: impl FnOnce(&Machine) -> D + Send,
) -> Result<(), Report> {
    let answer = question(&*alive(machine)?);
    answer.await.map_err(|e| Report::new(Kind::Guest, format!("cannot {what}: {}", describe(&e))))
}

/// Saves a guest in `state`, which is complete afterwards, and leaves the guest paused. After an error there is no state, and
/// the guest is resumed unless it was paused before. `facts` are taken while the guest is paused.
pub async fn save(
    machine: &Weak<Machine>,
    state: PathBuf,
    identity: Option<String>,
    facts: impl FnOnce() -> Result<Facts, Report> + Send + 'static,
) -> Result<(), Report> {
    let what = "suspend the guest";
    let saving = blocking(move || Saving::begin(&state)).await?;
    let to = saving.path();
    let path = to.to_str().ok_or_else(|| cannot(format!("the path {} is not UTF-8", to.display())))?.to_owned();
    ask(machine, what, Machine::can_save).await?;
    // A paused guest stays paused: the framework refuses to pause it again, but saves it.
    let paused = ask(machine, what, Machine::pause).await;
    let saved = match ask(machine, what, |machine| machine.save(path)).await {
        Ok(()) => blocking(move || saving.finish(facts()?, identity)).await,
        Err(why) => Err(why),
    };
    if saved.is_err() && paused.is_ok() {
        let _ = ask(machine, what, Machine::resume).await;
    }
    saved
}
