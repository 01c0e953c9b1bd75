//! Which boots are recorded, and for how long.

use super::*;
use dvn_host::machine_dir::StateDir;

fn dir() -> (tempfile::TempDir, MachineDir) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&"builder".parse().unwrap()).unwrap();
    (tmp, dir)
}

fn print(dir: &MachineDir, text: &str) {
    fs::write(dir.console_log(), text).unwrap();
}

/// A successful boot that is over, with or without a console that shows its number.
async fn boot(boots: &Boots, dir: &MachineDir, with_console: bool) -> u64 {
    let number = boots.begin(Tried::default());
    if with_console {
        print(dir, &format!("boot {number}"));
    }
    boots.ended("powered-off".to_owned());
    if dir.boots().is_dir() {
        written(dir, number, |outcome| matches!(outcome, BootOutcome::Ended { .. })).await;
    }
    number
}

fn text(dir: &MachineDir, boot: i64) -> String {
    fs::read_to_string(console(dir, boot).unwrap()).unwrap_or_default()
}

async fn written(dir: &MachineDir, number: u64, is_so: impl Fn(&BootOutcome) -> bool) {
    while !stored(dir, number).is_some_and(|record| is_so(&record.outcome)) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn panicked() -> Report {
    Report::new(Kind::Boot, "the kernel panicked")
}

#[tokio::test]
async fn the_consoles_of_five_boots_are_kept_under_their_numbers() {
    let (_tmp, dir) = dir();
    let boots = Boots::of(&dir);
    assert_eq!((boots.list(), text(&dir, 0)), (vec![], String::new()));
    for _ in 0..8 {
        boot(&boots, &dir, true).await;
    }
    for (which, expected) in [(0, "boot 8"), (-1, "boot 7"), (-4, "boot 4"), (8, "boot 8"), (4, "boot 4")] {
        assert_eq!(text(&dir, which), expected);
    }
    for gone in [-5, 3, 9, i64::MIN, i64::MAX] {
        let report = console(&dir, gone).unwrap_err();
        assert!(report.kind == Kind::NotFound && report.hints[0].contains("--boots"), "{report:?}");
    }
    assert_eq!(fs::read_dir(dir.boots()).unwrap().count(), 5 + 4, "a record each, and the consoles but the last");
    assert_eq!(fs::read_to_string(log_file::older(&dir.console_log())).ok(), None);
}

#[tokio::test]
async fn both_parts_of_a_long_console_are_set_aside_and_removed_together() {
    let (_tmp, dir) = dir();
    let boots = Boots::of(&dir);
    let older = |dir: &MachineDir, number| log_file::older(&set_aside_console(dir, number));
    boot(&boots, &dir, true).await;
    fs::write(log_file::older(&dir.console_log()), "began").unwrap();
    boot(&boots, &dir, true).await;
    assert_eq!(fs::read_to_string(older(&dir, 1)).unwrap(), "began");
    for _ in 0..5 {
        boot(&boots, &dir, true).await;
    }
    assert!(!older(&dir, 1).exists() && !set_aside_console(&dir, 1).exists());
}

#[tokio::test]
async fn a_failed_boot_is_kept_until_a_newer_one_fails_and_replaces_no_console() {
    let (_tmp, dir) = dir();
    let boots = Boots::of(&dir);
    let is_failed = |outcome: &BootOutcome| matches!(outcome, BootOutcome::Failed { .. });
    assert_eq!(boots.begin(Tried::default()), 1);
    print(&dir, "boot 1");
    boots.failed(&panicked());
    written(&dir, 1, is_failed).await;
    for _ in 0..20 {
        boot(&boots, &dir, true).await;
    }
    // There may be many boots without a guest.
    for _ in 0..20 {
        let number = boots.begin(Tried::default());
        boots.failed(&Report::new(Kind::Bundle, "no bundle"));
        written(&dir, number, is_failed).await;
    }
    let list = boots.list();
    let with: Vec<_> = list.iter().filter(|boot| boot.console_bytes.is_some()).map(|boot| boot.number).collect();
    assert_eq!(with, [21, 20, 19, 18, 1], "{list:#?}");
    assert!(list.len() <= 5 + 5 + 1 && list[0].number == 41);
    assert_eq!(text(&dir, 1), "boot 1");
    assert_eq!(list.last().unwrap().went_wrong(), Some(panicked()));
}

#[tokio::test]
async fn a_record_says_what_became_of_a_boot_and_the_first_failure_is_why() {
    let (_tmp, dir) = dir();
    let boots = Boots::of(&dir);
    let number = boots.begin(Tried { bundle: Some("/b".into()), cores: 2, memory: 3 });
    assert_eq!((boots.list()[0].outcome.clone(), boots.list()[0].cores), (BootOutcome::Starting, 2));
    boots.ready();
    assert_eq!(boots.list()[0].outcome, BootOutcome::Running);
    boots.ended("crashed: virtiofsd ended".to_owned());
    assert!(boots.list()[0].went_wrong().unwrap().message.contains("virtiofsd ended"));
    written(&dir, number, |outcome| matches!(outcome, BootOutcome::Ended { .. })).await;

    let number = boots.begin(Tried::default());
    boots.failed(&panicked());
    boots.ended("killed".to_owned());
    boots.failed(&Report::new(Kind::Busy, "it was cancelled"));
    assert_eq!(boots.list()[0].went_wrong(), Some(panicked()));
    let explained = Report::new(Kind::Boot, "the kernel panicked; the console says why: VFS");
    // Recorded while the next boot runs.
    boots.begin(Tried::default());
    boots.explained(number, &explained);
    assert_eq!(boots.list()[1].went_wrong(), Some(explained.clone()));
    written(&dir, number, |outcome| *outcome == BootOutcome::Failed { why: explained.clone() }).await;
}

#[tokio::test]
async fn a_boot_whose_daemon_died_is_lost_and_the_next_daemon_counts_on() {
    let (_tmp, dir) = dir();
    let boots = Boots::of(&dir);
    boots.begin(Tried::default());
    print(&dir, "boot 1");
    boots.ready();
    written(&dir, 1, |outcome| *outcome == BootOutcome::Running).await;
    assert_eq!(left(&dir)[0].outcome, BootOutcome::Lost, "no daemon runs");
    let next = Boots::of(&dir);
    assert_eq!(next.list()[0].outcome, BootOutcome::Lost);
    assert_eq!((boot(&next, &dir, true).await, text(&dir, -1).as_str()), (2, "boot 1"));
    assert!(matches!(stored(&dir, 1).unwrap().outcome, BootOutcome::Lost));
}

#[tokio::test]
async fn records_prevent_no_boot() {
    let (_tmp, dir) = dir();
    let boots = Boots::of(&dir);
    boot(&boots, &dir, true).await;
    fs::write(path(&dir, 1), "damaged").unwrap();
    fs::write(path(&dir, 7), r#"{"number": 1}"#).unwrap();
    assert_eq!(boot(&boots, &dir, true).await, 8);
    assert_eq!(boots.list().len(), 1, "an unreadable record is left out");
    fs::remove_dir_all(dir.boots()).unwrap();
    fs::write(dir.boots(), "no directory").unwrap();
    boot(&boots, &dir, true).await;
    boots.ready();
    assert_eq!(text(&dir, 0), "boot 1");
    // A machine that was deleted meanwhile stays deleted.
    fs::remove_dir_all(dir.root()).unwrap();
    boots.ended("killed".to_owned());
    boots.begin(Tried::default());
    assert!(!dir.root().exists());
}
