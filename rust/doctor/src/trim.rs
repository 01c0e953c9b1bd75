//! Whether space that the guest frees is given back: the check writes a file in the guest, deletes it, trims, and
//! compares the size of the image on the host.

use super::{finding::Finding, guest, shell::TIMEOUT, subject::Subject, volumes::shown};
use dvn_types::{Kind, Report};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Size of the file: large compared with what a guest writes on its own meanwhile.
const SIZE: u64 = 16 << 20;
/// Its path in the guest, on the data disk.
const FILE: &str = "/tmp/darwin-vz-nix-doctor";

/// Space of the image on the host, in bytes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    before: u64,
    written: u64,
    trimmed: u64,
}

/// The check `trim`.
pub async fn check(subject: &Subject) -> Finding {
    match measure(subject).await {
        Ok(outcome) => judge(outcome),
        Err(finding) => finding,
    }
}

async fn measure(subject: &Subject) -> Result<Result<Taken, Report>, Finding> {
    let image = subject.dir().data_disk();
    let taken = || taken(&image);
    let mut shell = guest::shell(subject).await?;
    let mut run = async |command: &str| match shell.run(command, TIMEOUT).await {
        Ok(output) if output.code == 0 => Ok(()),
        Ok(output) => Err(Finding::failed(Kind::Guest, format!("in the guest, `{command}` printed: {}", output.text))),
        Err(why) => Err(Finding::failed(Kind::Guest, why)),
    };
    // Trim first: otherwise the file could reuse blocks that the image already has.
    if let Err(report) = subject.client.trim(&subject.machine).await {
        return Ok(Err(report));
    }
    run("sync").await?;
    let before = taken()?;
    // Zeros: neither backend skips them, and an emulated guest produces them quickly.
    let write = run(&format!("head -c {SIZE} /dev/zero >{FILE} && sync")).await;
    let written = taken();
    let delete = run(&format!("rm -f {FILE} && sync")).await;
    write.and(delete)?;
    Ok(match subject.client.trim(&subject.machine).await {
        Ok(_) => Ok(Taken { before, written: written?, trimmed: taken()? }),
        Err(report) => Err(report),
    })
}

fn taken(image: &Path) -> Result<u64, Finding> {
    // stat(2) counts blocks of 512 bytes, whatever the file system.
    fs::metadata(image)
        .map(|meta| meta.blocks() * 512)
        .map_err(|error| Finding::failed(Kind::State, format!("{} cannot be examined: {error}", image.display())))
}

fn judge(outcome: Result<Taken, Report>) -> Finding {
    let Taken { before, written, trimmed } = match outcome {
        Ok(taken) => taken,
        Err(report) => {
            return Finding::warning(format!("the guest cannot give space back: {report}"))
                .hint("the image on this computer only grows; `darwin-vz-nix destroy --keep-keys` makes a new one");
        }
    };
    let (grown, shrunk) = (written.saturating_sub(before), written.saturating_sub(trimmed));
    let evidence = format!(
        "a file of {} in the guest: the image grew by {}, and shrank by {} after its deletion",
        shown(SIZE),
        shown(grown),
        shown(shrunk)
    );
    if grown < SIZE / 2 {
        return Finding::not_applicable(format!("inconclusive: {evidence}"));
    }
    if shrunk < SIZE / 2 {
        return Finding::warning(evidence)
            .hint("the volume of the state directory may lack sparse files, or the backend discarding")
            .hint("the image only grows; `darwin-vz-nix destroy --keep-keys` makes a new one");
    }
    Finding::ok(evidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    fn judged(before: u64, written: u64, trimmed: u64) -> Finding {
        let [before, written, trimmed] = [before, written, trimmed].map(|mib| mib << 20);
        judge(Ok(Taken { before, written, trimmed }))
    }

    #[test]
    fn space_comes_back_or_it_does_not() {
        let finding = judged(100, 117, 101);
        assert_eq!(finding.outcome, Outcome::Ok);
        assert!(
            finding.evidence.contains("grew by 17.0 MiB, and shrank by 16.0 MiB after its deletion"),
            "{finding:?}"
        );
        assert_eq!(judged(100, 116, 116).outcome, Outcome::Warning);
        assert_eq!(judged(100, 116, 124).outcome, Outcome::Warning);
    }

    #[test]
    fn an_image_that_did_not_grow_is_inconclusive() {
        assert_eq!(judged(100, 101, 101).outcome, Outcome::NotApplicable);
        assert_eq!(judged(4096, 4096, 4096).outcome, Outcome::NotApplicable, "a volume without sparse files");
    }

    #[test]
    fn a_disk_that_cannot_be_trimmed_is_reported() {
        let report = Report::new(Kind::Guest, "the guest's agent could not do it: Operation not supported");
        let finding = judge(Err(report));
        assert!(finding.outcome == Outcome::Warning && finding.evidence.contains("not supported"), "{finding:?}");
    }
}
