//! What a session holds while a guest works, and what it finds vanished.

use super::*;

#[tokio::test]
async fn a_session_holds_what_the_guest_knew_before_and_learns_meanwhile() {
    let mut lab = Lab::new();
    for (letter, references) in [('a', "b"), ('b', ""), ('c', ""), ('d', "")] {
        lab.add(letter, references);
    }
    lab.guest().await.info('a').await.unwrap().unwrap();
    lab.restart();
    let session = lab.store.open_session().await.unwrap();
    let mut guest = lab.guest().await;
    guest.info('c').await.unwrap().unwrap();
    assert!(guest.is_valid('d').await);
    drop(guest);
    eventually("the guest's connections to be gone", || lab.world().held.len() == 1).await;
    lab.world().collect_garbage();
    assert_eq!(lab.world().paths.keys().cloned().collect::<Vec<_>>(), ['a', 'b', 'c'].map(path));
    assert_eq!(session.vanished, Vec::<String>::new());
    assert!(!session.is_lost());
    lab.world().assert_held_before_asked();

    drop(session);
    eventually("the session to be gone", || lab.world().held.is_empty()).await;
    lab.world().collect_garbage();
    assert!(lab.world().paths.is_empty());
    let mut vanished = lab.store.open_session().await.unwrap().vanished;
    vanished.sort();
    assert_eq!(vanished, ['a', 'c'].map(full));
    lab.store.forgotten(&vanished[..1]).unwrap();
    assert_eq!(lab.store.trusted_paths(), [full('c')]);
    assert_eq!(lab.store.open_session().await.unwrap().vanished, [full('c')]);
}

#[tokio::test]
async fn a_path_that_came_back_as_something_else_has_vanished() {
    let lab = Lab::new();
    lab.add('a', "");
    lab.guest().await.info('a').await.unwrap().unwrap();
    lab.world().paths.get_mut(&path('a')).unwrap().0 = "other".into();
    assert_eq!(lab.store.open_session().await.unwrap().vanished, [full('a')]);
}

#[tokio::test]
async fn two_sessions_both_hold_what_the_guest_learns_meanwhile() {
    let lab = Lab::new();
    lab.add('a', "");
    let first = lab.store.open_session().await.unwrap();
    let second = lab.store.open_session().await.unwrap();
    lab.guest().await.info('a').await.unwrap().unwrap();
    drop(second);
    eventually("one session to be left", || lab.world().held.len() == 1).await;
    lab.world().collect_garbage();
    assert_eq!(lab.world().paths.len(), 1);
    drop(first);
}

#[tokio::test]
async fn a_session_reports_that_the_daemon_went() {
    let mut lab = Lab::new();
    lab.add('a', "");
    let mut guest = lab.guest().await;
    let session = lab.store.open_session().await.unwrap();
    assert!(timeout(Duration::from_millis(50), session.lost()).await.is_err());
    lab.daemon.restart().await;
    timeout(TIMEOUT, session.lost()).await.unwrap();
    assert!(session.is_lost());
    assert!(guest.ask(26, &full('a')).await.unwrap_err().contains("daemon failed"));
    assert!(guest.is_closed().await);
    let again = lab.store.open_session().await.unwrap();
    lab.guest().await.info('a').await.unwrap().unwrap();
    assert!(!again.is_lost());
}

#[tokio::test]
async fn without_a_daemon_nothing_is_valid_and_no_session_opens() {
    let lab = Lab::new();
    lab.add('a', "");
    let mut guest = lab.guest().await;
    guest.info('a').await.unwrap().unwrap();
    fs::remove_file(&lab.daemon.socket).unwrap();
    let error = lab.store.open_session().await.unwrap_err();
    assert!(error.message.contains("cannot be reached") && !error.hints.is_empty(), "{error:?}");
    let mut guest = lab.guest().await;
    assert!(!guest.is_valid('a').await);
    assert_eq!(guest.info('a').await.unwrap(), None);
    assert_eq!(guest.list(6, 'a').await, []);
    assert!(matches!(lab.store.figures().upstream, crate::UpstreamState::Fails { .. }));
}

#[tokio::test]
async fn a_daemon_that_dies_in_the_middle_of_an_answer_ends_that_connection_only() {
    let lab = Lab::new();
    lab.add('a', "");
    lab.world().quirks.dies = true;
    let mut guest = lab.guest().await;
    let error = guest.ask(26, &full('a')).await.unwrap_err();
    assert!(error.contains("connection to the host's Nix daemon failed"), "{error}");
    assert!(guest.is_closed().await);
    lab.world().quirks.dies = false;
    assert!(lab.guest().await.is_valid('a').await);
}

#[tokio::test]
async fn a_long_ledger_is_held_by_several_connections_and_missed_in_all() {
    let mut lab = Lab::new();
    let many: Vec<_> = (0..4500).map(|n| StorePath::from_name(&format!("{}-{n}", "a".repeat(32))).unwrap()).collect();
    let known_paths: String = many.iter().map(|path| format!("{path} hash 1\n")).collect();
    fs::write(lab.tmp.path().join("store-ledger"), known_paths).unwrap();
    lab.restart();
    lab.world().paths = many.iter().map(|path| (path.clone(), ("hash".into(), vec![]))).collect();
    for path in many.iter().step_by(450) {
        lab.world().paths.remove(path);
    }
    let session = lab.store.open_session().await.unwrap();
    assert_eq!(lab.world().held.len(), 4);
    assert_eq!(lab.world().held.values().map(std::collections::BTreeSet::len).sum::<usize>(), 4500);
    assert_eq!(session.vanished.len(), 10);
    lab.world().collect_garbage();
    assert_eq!(lab.world().paths.len(), 4490);
    lab.daemon.restart().await;
    timeout(TIMEOUT, session.lost()).await.unwrap();
}
