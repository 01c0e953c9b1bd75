//! A build whose inputs the host has: with the host's store in the guest, and without it.

use crate::{
    figures::{Figure, Series},
    inputs::{SUM, build, many_inputs, sent, sum_of_many},
    lab::{Door, Lab},
    progress,
};
use std::time::{Duration, Instant};

/// Bytes of copied inputs, and the time relative to copying all of them.
pub fn figures(rounds: usize) -> [Figure; 2] {
    let (shared, copying) = (Lab::sharing("cores = 2"), Lab::running("cores = 2"));
    let inputs = (many_inputs(&shared), many_inputs(&copying));
    let mut series = Series::default();
    let mut copied = 0;
    for round in 0..rounds {
        progress("a build of many inputs", round, rounds);
        let before = empty_disk(&shared);
        series.ours.push(time(&shared, &format!("first-{round}"), &inputs.0));
        let first = sent(&shared) - before;
        // The guest knows all of them now, so this is the cost of asking for a build.
        time(&shared, &format!("other-{round}"), &inputs.0);
        let asking = sent(&shared) - before - first;
        copied += first.abs_diff(asking);
        shared.ok(&["stop"]);
        empty_disk(&copying);
        series.reference.push(time(&copying, &format!("first-{round}"), &inputs.1));
        copying.ok(&["stop"]);
    }
    let copied = Figure::without_reference("host-inputs-copied-bytes", copied as f64, "bytes", 0.0);
    [copied, series.ratio("store-build-ratio", 0.5, false)]
}

/// A guest with an empty disk, and the bytes sent to those before it.
fn empty_disk(lab: &Lab) -> u64 {
    lab.ok(&["destroy", "--yes", "--keep-keys"]);
    lab.ok(&["start"]);
    sent(lab)
}

fn time(lab: &Lab, name: &str, inputs: &[String]) -> Duration {
    let began = Instant::now();
    assert_eq!(build(lab, Door::Direct, name, inputs, SUM), sum_of_many());
    began.elapsed()
}
