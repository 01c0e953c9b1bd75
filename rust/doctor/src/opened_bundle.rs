//! The machine's bundle, read for several checks.

use super::{finding::Finding, needs, subject::Subject};
use dvn_guest::bundle::{Bundle, BundleError};
use dvn_types::{Kind, Report};
use std::time::Duration;
use tokio::{task::spawn_blocking, time::timeout};

/// How long the bundle's files may take to be read. A volume that does not answer takes for ever.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The bundle's own verdict, or why there is none. Without one within [`PATIENCE`] it is `None`.
pub async fn open(subject: &Subject) -> Result<Option<Result<Bundle, BundleError>>, Finding> {
    let settings = needs::settings(subject)?;
    let can = subject.backend.as_ref();
    let can = can.map_err(|_| Finding::not_applicable("nothing runs guests here: see the check backend"))?;
    let Some(dir) = settings.bundle.clone() else { return Ok(Some(Err(BundleError::None))) };
    let guests = can.guests.clone();
    let opened = timeout(PATIENCE, spawn_blocking(move || Bundle::open(&dir, &guests))).await;
    opened.ok().transpose().map_err(|lost| Report::new(Kind::Internal, lost.to_string()).into())
}

/// The machine's bundle, if it is fit for a boot.
pub async fn fit(subject: &Subject) -> Option<Bundle> {
    open(subject).await.ok()??.ok()
}
