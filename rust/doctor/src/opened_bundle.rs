//! The machine's bundle, opened for several checks.

use super::{finding::Finding, needs, subject::Subject};
use dvn_guest::bundle::{Bundle, BundleError};
use dvn_types::{Kind, Report};
use std::time::Duration;
use tokio::{task::spawn_blocking, time::timeout};

/// Time limit for reading the bundle's files: a volume that hangs never answers.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The result of opening the bundle, or why this cannot be tried. `None` if [`TIMEOUT`] is exceeded.
pub async fn open(subject: &Subject) -> Result<Option<Result<Bundle, BundleError>>, Finding> {
    let settings = needs::settings(subject)?;
    let can = subject.backend.as_ref();
    let can = can.map_err(|_| Finding::not_applicable("nothing runs guests here: see the check backend"))?;
    let Some(dir) = settings.builder.bundle.clone() else { return Ok(Some(Err(BundleError::None))) };
    let guests = can.guests.clone();
    let opened = timeout(TIMEOUT, spawn_blocking(move || Bundle::open(&dir, &guests))).await;
    opened.ok().transpose().map_err(|lost| Report::new(Kind::Internal, lost.to_string()).into())
}

/// The machine's bundle, if it can boot.
pub async fn fit(subject: &Subject) -> Option<Bundle> {
    open(subject).await.ok()??.ok()
}
