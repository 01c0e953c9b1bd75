//! Saving a guest: pause, save, and go on again where that fails.

use super::{
    bridge::{Done, Machine},
    reason::describe,
};
use crate::{
    saved::{self, Facts},
    spec::MachineSpec,
};
use dvn_types::{Kind, Report};
use std::{
    path::Path,
    sync::{Arc, Weak},
};
use tokio::task::spawn_blocking;

/// What a state of this machine fits. Blocks.
pub fn facts(spec: &MachineSpec) -> Result<Facts, Report> {
    saved::facts("vz", spec, &[])
}

/// The guest was not saved.
pub fn cannot(why: String) -> Report {
    Report::new(Kind::Guest, format!("cannot suspend the guest: {why}"))
}

/// Runs work that blocks.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Report> + Send + 'static,
) -> Result<T, Report> {
    spawn_blocking(work).await.map_err(|e| cannot(e.to_string()))?
}

/// The machine, if there is one still.
pub fn alive(machine: &Weak<Machine>) -> Result<Arc<Machine>, Report> {
    machine.upgrade().ok_or_else(|| Report::new(Kind::Guest, "the guest is gone"))
}

/// Asks the machine, which is held for the question alone: it must be able to go while the answer is awaited.
pub async fn ask<D: Done>(
    machine: &Weak<Machine>,
    what: &str,
    question: impl FnOnce(&Machine) -> D + Send,
) -> Result<(), Report> {
    let answer = question(&*alive(machine)?);
    answer.await.map_err(|e| Report::new(Kind::Guest, format!("cannot {what}: {}", describe(&e))))
}

/// Saves a guest, which stands still then. On an error it goes on.
pub async fn save(machine: &Weak<Machine>, to: &Path) -> Result<(), Report> {
    let what = "suspend the guest";
    let path = to.to_str().ok_or_else(|| cannot(format!("the path {} is no text", to.display())))?.to_owned();
    ask(machine, what, Machine::can_save).await?;
    // One that is paused stays so: the framework refuses, and saves it nevertheless.
    let paused = ask(machine, what, Machine::pause).await;
    let saved = ask(machine, what, |machine| machine.save(path)).await;
    if saved.is_err() && paused.is_ok() {
        let _ = ask(machine, what, Machine::resume).await;
    }
    saved
}
