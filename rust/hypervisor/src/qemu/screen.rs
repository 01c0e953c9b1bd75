//! Screenshots of a guest, taken by QEMU.

use super::qmp::Qmp;
use crate::seam::Display;
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use serde_json::json;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{fs, time::timeout};

/// Time limit for a screenshot. QEMU takes some tens of milliseconds, but does not answer while its process is paused.
const SCREENSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of screenshots so far, for unique file names.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A guest's screen.
pub struct QemuScreen {
    qmp: Qmp,
    runtime_dir: PathBuf,
}

impl QemuScreen {
    /// The screen of the guest with this monitor. Screenshots pass through a file in its runtime directory.
    pub fn new(qmp: Qmp, runtime_dir: PathBuf) -> QemuScreen {
        QemuScreen { qmp, runtime_dir }
    }

    async fn take(&self) -> Result<Vec<u8>, String> {
        let file = self.runtime_dir.join(format!("screen-{}.png", TAKEN.fetch_add(1, Ordering::Relaxed)));
        let name = file.to_str().ok_or_else(|| format!("the path {} is not UTF-8", file.display()))?;
        let taken = self.qmp.run_with("screendump", json!({ "filename": name, "format": "png" })).await;
        let png = match taken {
            Ok(_) => fs::read(&file).await.map_err(|e| e.to_string()),
            Err(why) => Err(why),
        };
        let _ = fs::remove_file(&file).await;
        png
    }
}

impl Display for QemuScreen {
    fn screenshot(&self) -> BoxFuture<'_, Result<Vec<u8>, Report>> {
        Box::pin(async {
            let taken = timeout(SCREENSHOT_TIMEOUT, self.take()).await;
            let taken = taken.unwrap_or_else(|_| {
                Err(format!("QEMU did not answer within {SCREENSHOT_TIMEOUT:?}: is the guest paused?"))
            });
            taken.map_err(|why| Report::new(Kind::Guest, format!("cannot take a screenshot of the guest: {why}")))
        })
    }
}
