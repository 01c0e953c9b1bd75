//! Pictures of a guest's screen, which QEMU takes.

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

/// How long a picture may take. QEMU itself takes some tens of milliseconds, and for ever while its process is halted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pictures of this program so far: each has a file of its own.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A guest's screen.
pub struct QemuScreen {
    qmp: Qmp,
    runtime_dir: PathBuf,
}

impl QemuScreen {
    /// Of the guest with this monitor; pictures pass through a file in its runtime directory.
    pub fn new(qmp: Qmp, runtime_dir: PathBuf) -> QemuScreen {
        QemuScreen { qmp, runtime_dir }
    }

    async fn take(&self) -> Result<Vec<u8>, String> {
        let file = self.runtime_dir.join(format!("screen-{}.png", TAKEN.fetch_add(1, Ordering::Relaxed)));
        let name = file.to_str().ok_or_else(|| format!("the path {} is no text", file.display()))?;
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
            let taken = timeout(PATIENCE, self.take()).await;
            let taken =
                taken.unwrap_or_else(|_| Err(format!("QEMU took none within {PATIENCE:?}: is the guest paused?")));
            taken.map_err(|why| Report::new(Kind::Guest, format!("there is no picture of the guest's screen: {why}")))
        })
    }
}
