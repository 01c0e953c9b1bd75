//! The vsock device of a machine that can be suspended. QEMU cannot save the device, so it is unplugged before the guest
//! is saved, and plugged in again after the guest is loaded.
//!
//! ```text
//!  suspend:  device_del ─▶ the guest releases the device ─▶ DEVICE_DELETED ─▶ save, with the port empty
//!  restore:  load, with the port empty ─▶ chardev-add, device_add ─▶ resume; the guest finds the device
//! ```
//!
//! The rule: a guest that was not saved gets its device back, also when it releases the device only after the time limit.

use super::{
    command::{Sockets, VSOCK, VSOCK_DRIVER, VSOCK_PORT},
    qmp::{Qmp, Removal},
};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

/// Time limit for the guest to release the device. A kernel for x86_64 does so within a second, one for aarch64 after the
/// five seconds during which the request could be withdrawn by hand; firmware never does.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// Time limit for the helper to accept a connection. It needs milliseconds.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// The port of a machine's vsock device.
#[derive(Clone)]
pub struct VsockPort {
    qmp: Qmp,
    helper: PathBuf,
    /// Held while the device is unplugged or plugged in.
    changing: Arc<Mutex<()>>,
}

impl VsockPort {
    /// The port of the machine with this monitor and runtime directory.
    pub fn new(qmp: Qmp, runtime_dir: &Path) -> VsockPort {
        VsockPort { qmp, helper: Sockets(runtime_dir).vhost_vsock(), changing: Arc::default() }
    }

    /// Does something while the port is empty, after which the guest has ended. If it fails, the device comes back.
    pub async fn empty_during<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let _changing = self.changing.lock().await;
        self.unplug().await?;
        match work.await {
            Ok(done) => Ok(done),
            Err(why) => match self.plug_in_again().await {
                Ok(()) => Err(why),
                Err(also) => Err(format!("{why}; the guest has no vsock device any more: {also}")),
            },
        }
    }

    async fn unplug(&self) -> Result<(), String> {
        let mut removal = self.qmp.removal();
        self.qmp.run_with("device_del", json!({ "id": VSOCK })).await?;
        match timeout(RELEASE_TIMEOUT, removal.of(VSOCK)).await {
            Ok(removed) => removed,
            Err(_) => {
                tokio::spawn(self.clone().return_after(removal));
                let seconds = RELEASE_TIMEOUT.as_secs();
                Err(format!(
                    "its system did not release the vsock device within {seconds} seconds; it may still be booting: try again later"
                ))
            }
        }
    }

    /// The request cannot be withdrawn, so the guest may still release the device, when its system is up.
    async fn return_after(self, mut removal: Removal) {
        if removal.of(VSOCK).await.is_err() {
            return;
        }
        let _changing = self.changing.lock().await;
        match self.is_plugged_in().await {
            Ok(false) => {}
            // Another attempt to suspend the guest has brought it back, or has ended the guest.
            Ok(true) | Err(_) => return,
        }
        if let Err(why) = self.plug_in_again().await {
            tracing::error!("a guest has lost its vsock device, and did not get it back: {why}");
        }
    }

    async fn is_plugged_in(&self) -> Result<bool, String> {
        let devices = self.qmp.run_with("qom-list", json!({ "path": "/machine/peripheral" })).await?;
        let mut devices = devices.as_array().into_iter().flatten();
        Ok(devices.any(|device| device["name"] == VSOCK))
    }

    /// The helper ends a session, with all its streams, when its connection ends. Then it listens again.
    async fn plug_in_again(&self) -> Result<(), String> {
        self.qmp.run_with("chardev-remove", json!({ "id": VSOCK })).await?;
        self.plug_in().await
    }

    /// Plugs the device in. Its helper listens or is about to.
    pub async fn plug_in(&self) -> Result<(), String> {
        let path = self.helper.to_str().ok_or_else(|| format!("the path {} is not UTF-8", self.helper.display()))?;
        let address = json!({ "type": "unix", "data": { "path": path } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        let connection = json!({ "id": VSOCK, "backend": backend });
        let give_up = Instant::now() + HELPER_TIMEOUT;
        while let Err(why) = self.qmp.run_with("chardev-add", connection.clone()).await {
            if Instant::now() > give_up {
                return Err(why);
            }
            sleep(Duration::from_millis(5)).await;
        }
        let device = json!({ "driver": VSOCK_DRIVER, "id": VSOCK, "chardev": VSOCK, "bus": VSOCK_PORT });
        self.qmp.run_with("device_add", device).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
