//! The free space of the guest's data disk, as the guest sees it. The connection that asks for it makes the guest
//! collect its garbage first if that is due, so the space that is still missing is in use.

use super::{
    finding::Finding,
    guest,
    shell::{Output, TIMEOUT},
    subject::Subject,
    volumes::shown,
};
use dvn_types::Kind;

/// With less free space, hardly any build succeeds.
const FULL: u64 = 256 << 20;

/// With less than this, and less than an eighth of the disk, a large build fails.
const LITTLE: u64 = 2 << 30;

/// The check `data-disk`.
pub async fn check(subject: &Subject) -> Finding {
    let mut shell = match guest::shell(subject).await {
        Ok(shell) => shell,
        Err(finding) => return finding,
    };
    judge(shell.run("df -Pk /data", TIMEOUT).await.and_then(|output| space(&output)))
}

/// Size and free space in bytes, from the output of `df -Pk`.
fn space(output: &Output) -> Result<(u64, u64), String> {
    let fields: Vec<_> = output.text.lines().last().unwrap_or_default().split_whitespace().collect();
    let bytes = |field: usize| fields.get(field)?.parse::<u64>().ok()?.checked_mul(1024);
    match (output.code, bytes(1), bytes(3)) {
        (0, Some(total), Some(free)) => Ok((total, free)),
        _ => Err(format!("in the guest, `df -Pk /data` printed: {}", output.text)),
    }
}

fn judge(space: Result<(u64, u64), String>) -> Finding {
    let (total, free) = match space {
        Ok(space) => space,
        Err(why) => return Finding::failed(Kind::Guest, why),
    };
    let evidence = format!("{} of {} free in the guest", shown(free), shown(total));
    let finding = match free {
        _ if free < FULL => Finding::failed(Kind::Guest, format!("only {evidence}, and no garbage to collect")),
        _ if free < LITTLE && free < total / 8 => Finding::warning(format!("only {evidence}")),
        _ => return Finding::ok(evidence),
    };
    finding
        .hint("raise the setting disk-size and restart the guest: the disk grows")
        .hint("or empty it: `darwin-vz-nix destroy --keep-keys --keep-generations`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    #[test]
    fn both_sizes_are_read_or_the_output_is_shown() {
        let said = |code, text: &str| space(&Output { code, text: text.to_owned() });
        let df = "Filesystem           1024-blocks    Used Available Capacity Mounted on\n/dev/vdb               1029548    226180    786984  22% /data";
        assert_eq!(said(0, df), Ok((1_029_548 << 10, 786_984 << 10)));
        for (code, text) in [(1, "df: /data: can't find mount point"), (0, ""), (0, "a b c d e f"), (2, df)] {
            assert!(said(code, text).unwrap_err().ends_with(text));
        }
    }

    #[test]
    fn a_full_disk_fails_and_one_with_little_room_warns() {
        let judged = |total: u64, free: u64| judge(Ok((total << 20, free << 20)));
        assert_eq!(judged(4096, 512), Finding::ok("512.0 MiB of 4.0 GiB free in the guest"));
        assert_eq!(judged(100 << 10, 3 << 10).outcome, Outcome::Ok);
        assert_eq!(judged(100 << 10, 1 << 10).outcome, Outcome::Warning);
        let full = judged(100 << 10, 255);
        assert_eq!((full.outcome, full.kind, full.hints.len()), (Outcome::Failed, Some(Kind::Guest), 2));
        assert_eq!(judge(Err("no".to_owned())).outcome, Outcome::Failed);
    }
}
