//! The daemon's machines. They are opened, inserted and removed while it runs, and a broken one does not affect the others.
//!
//! The rule: an attempt to open a machine has two outcomes, the machine or a [`Report`] that is listed in its place.

mod slot;
#[cfg(test)]
mod tests;

pub use slot::{MachineFactory, pollable};

use crate::machine::Machine;
use dvn_config::MachineConfig;
use dvn_host::activation::Inherited;
use dvn_types::{Keep, Kind, MachineName, Report, wire::MachineStatus};
use slot::Slot;
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::SeqCst},
};

/// The machines, by name.
pub struct Machines {
    factory: Arc<MachineFactory>,
    slots: Mutex<BTreeMap<MachineName, Arc<Slot>>>,
}

impl Machines {
    /// An empty list.
    pub fn new(factory: MachineFactory) -> Machines {
        Machines { factory: Arc::new(factory), slots: Mutex::default() }
    }

    /// Opens a machine that the configuration declares.
    pub async fn declare(&self, name: MachineName, config: MachineConfig) -> Result<Arc<Machine>, Report> {
        self.add(name, config, true).await
    }

    /// Opens a machine that no configuration declares.
    ///
    /// # Errors
    /// `Busy`: there is one of that name. Any other: the machine is listed as broken, for this reason.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "only tests have machines here that no configuration declares; those of the library are in vms"
        )
    )]
    pub async fn insert(&self, name: MachineName, config: MachineConfig) -> Result<Arc<Machine>, Report> {
        self.add(name, config, false).await
    }

    async fn add(&self, name: MachineName, config: MachineConfig, declared: bool) -> Result<Arc<Machine>, Report> {
        let slot = {
            let mut slots = self.slots();
            if slots.contains_key(&name) {
                let report = Report::new(Kind::Busy, format!("there is a machine {name} already"));
                return Err(report.hint("choose another name, or delete that machine"));
            }
            let slot = Slot::new(name.clone(), config, declared, Arc::clone(&self.factory));
            slots.insert(name, Arc::clone(&slot));
            slot
        };
        slot.ready(true).await
    }

    /// Starts to admit clients and to reconcile generations. The API must have its socket: the host's `nix` connects through it.
    pub fn serve(&self) {
        self.factory.serving.store(true, SeqCst);
        for slot in self.all() {
            if let Ok(machine) = slot.machine() {
                machine.keep_generations();
            }
            slot.serve();
        }
    }

    /// Their status, for the API.
    pub fn status(&self) -> Vec<MachineStatus> {
        self.all().iter().filter_map(|slot| slot.status()).collect()
    }

    /// The machines that work.
    pub fn working(&self) -> Vec<Arc<Machine>> {
        self.all().iter().filter_map(|slot| slot.machine().ok()).collect()
    }

    /// The names of those that are broken.
    pub fn broken(&self) -> Vec<MachineName> {
        let slots = self.slots();
        slots.iter().filter(|(_, slot)| slot.machine().is_err()).map(|(name, _)| name.clone()).collect()
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// `NotFound`: there is none of that name. Any other: why it is broken.
    pub fn get(&self, name: &MachineName) -> Result<Arc<Machine>, Report> {
        self.slot(name)?.machine()
    }

    /// The machine of this name, opened first if it is broken. Unless the caller insists, an attempt that failed within the last
    /// second is not repeated.
    ///
    /// # Errors
    /// As [`Machines::get`].
    pub async fn ready(&self, name: &MachineName, insist: bool) -> Result<Arc<Machine>, Report> {
        self.slot(name)?.ready(insist).await
    }

    /// Stops a machine and deletes its files. A machine that the configuration declares is created again; any other is removed.
    /// The future must not be dropped before its end.
    pub async fn delete(&self, name: &MachineName, keep: Keep) -> Result<(), Report> {
        match self.slot(name)?.is_declared() {
            true => self.slot(name)?.make_anew(keep).await,
            false if keep != Keep::default() => {
                let what = "the configuration does not declare it, so that nothing would use what is kept";
                Err(Report::new(Kind::Config, format!("{name} is not deleted in part: {what}"))
                    .hint("delete all of it: `darwin-vz-nix destroy` without --keep-keys and --keep-generations"))
            }
            false => self.remove(name).await,
        }
    }

    /// Stops a machine, ends its tasks, deletes its files, and removes it from the list. The future must not be dropped before
    /// its end.
    ///
    /// # Errors
    /// `NotFound`, or the guest does not end: the machine stays unchanged. Its files cannot be deleted: it is listed as broken.
    pub async fn remove(&self, name: &MachineName) -> Result<(), Report> {
        self.slot(name)?.remove().await?;
        self.slots().remove(name);
        Ok(())
    }

    /// Stops every guest, at the same time.
    pub async fn shut_down(&self) {
        futures_util::future::join_all(self.working().iter().map(|machine| machine.shut_down())).await;
    }

    /// A listening socket for this address: the one that a service manager handed over, or a new one.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener, Report> {
        self.inherited().listen(address)
    }

    /// Addresses of sockets that were handed over and that no machine uses.
    pub fn left_over(&self) -> Vec<SocketAddr> {
        self.inherited().left_over()
    }

    fn inherited(&self) -> MutexGuard<'_, Inherited> {
        self.factory.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, name: &MachineName) -> Result<Arc<Slot>, Report> {
        let slots = self.slots();
        slots.get(name).cloned().ok_or_else(|| {
            let names = slots.keys().map(MachineName::as_str).collect::<Vec<_>>().join(", ");
            Report::new(Kind::NotFound, format!("there is no machine {name}")).hint(format!("there is: {names}"))
        })
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        self.slots().values().cloned().collect()
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<MachineName, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
