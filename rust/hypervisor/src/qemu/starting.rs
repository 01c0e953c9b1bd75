//! The processes of a guest that starts, and what the guest holds.
//!
//! The rule: what a guest holds is dropped after its processes are gone, also if the start fails or is cancelled.

use super::process::Process;
use crate::seam::Hold;
use tokio::runtime::Handle;

/// The processes so far. Dropping it ends them.
pub struct Starting {
    pub qemu: Option<Process>,
    pub helpers: Vec<Process>,
    hold: Option<Hold>,
}

impl Starting {
    /// Of a guest that holds this.
    pub fn new(hold: Hold) -> Starting {
        Starting { qemu: None, helpers: Vec::new(), hold: Some(hold) }
    }

    /// QEMU, its helpers and what the guest holds, once all of them are there: dropping this has no effect then.
    pub fn complete(&mut self) -> Option<(Process, Vec<Process>, Hold)> {
        let qemu = self.qemu.take()?;
        Some((qemu, std::mem::take(&mut self.helpers), self.hold.take()?))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut processes: Vec<_> = self.qemu.take().into_iter().chain(self.helpers.drain(..)).collect();
        let hold = self.hold.take();
        // Without a runtime the program is ending, and its processes with it.
        if let (false, Ok(runtime)) = (processes.is_empty(), Handle::try_current()) {
            runtime.spawn(async move {
                for process in &mut processes {
                    process.kill().await;
                }
                drop(hold);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::probe::Programs, *};
    use std::path::PathBuf;
    use tokio::sync::oneshot;

    /// Says when it is dropped whether a process still exists.
    struct Probe(PathBuf, Option<oneshot::Sender<bool>>);

    impl Drop for Probe {
        fn drop(&mut self) {
            let _ = self.1.take().unwrap().send(self.0.exists());
        }
    }

    #[tokio::test]
    async fn what_a_cancelled_start_holds_is_dropped_after_its_processes_are_gone() {
        let sleeps = || {
            let args = vec!["-c".into(), "exec sleep 600".into()];
            Process::start(&Programs::new("/bin:/usr/bin".as_ref()), "sh", args).unwrap()
        };
        let (qemu, helper) = (sleeps(), sleeps());
        let pid = qemu.id().unwrap();
        let (gone, was_there) = oneshot::channel();
        let mut starting = Starting::new(Box::new(Probe(format!("/proc/{pid}").into(), Some(gone))));
        (starting.qemu, starting.helpers) = (Some(qemu), vec![helper]);
        drop(starting);
        assert!(!was_there.await.unwrap(), "its memory was free before it had ended");

        let (gone, dropped) = oneshot::channel();
        let mut starting = Starting::new(Box::new(Probe(PathBuf::new(), Some(gone))));
        assert!(starting.complete().is_none());
        starting.qemu = Some(sleeps());
        let complete = starting.complete().unwrap();
        drop(starting);
        let mut dropped = dropped;
        assert!(dropped.try_recv().is_err(), "the guest holds it");
        drop(complete);
        assert!(dropped.try_recv().is_ok());
    }
}
