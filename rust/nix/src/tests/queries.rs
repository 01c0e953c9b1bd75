//! Which paths are valid, and which descriptions the guest gets.

use super::*;

#[tokio::test]
async fn what_is_valid_on_the_host_is_valid_with_its_closure_and_held_before_it_is_asked_about() {
    for chatty in [false, true] {
        let lab = Lab::new();
        lab.world().quirks.chatty = chatty;
        for (letter, references) in [('a', "abc"), ('b', "d"), ('c', "d"), ('d', "")] {
            lab.add(letter, references);
        }
        let mut guest = lab.guest().await;
        assert!(guest.is_valid('a').await);
        assert!(!guest.is_valid('f').await);
        let (hash, references) = guest.info('a').await.unwrap().unwrap();
        assert_eq!((hash.as_str(), references), ("hasha", ['a', 'b', 'c'].map(|l| full(l).into_bytes()).to_vec()));
        assert_eq!(guest.info('f').await.unwrap(), None);
        assert_eq!(guest.valid_of("afbda").await, ['a', 'a', 'b', 'd']);
        assert_eq!(guest.valid_of("").await, []);
        let world = lab.world();
        world.assert_held_before_asked();
        assert_eq!(world.count(26), 4 + 3, "four that are valid once each, one that is not three times");
    }
}

#[tokio::test]
async fn lists_have_only_known_paths() {
    let lab = Lab::new();
    for (letter, references) in [('a', "b"), ('b', ""), ('c', "b"), ('d', "")] {
        lab.add(letter, references);
    }
    let mut guest = lab.guest().await;
    assert_eq!(guest.list(6, 'b').await, []);
    guest.info('a').await.unwrap();
    assert_eq!(guest.list(6, 'b').await, ['a']);
    guest.info('b').await.unwrap();
    guest.say(Encoder::default().number(23).as_slice()).await.unwrap();
    guest.outcome().await.unwrap().unwrap();
    assert_eq!(guest.letters().await, ['a', 'b']);
    guest.ask(29, &"c".repeat(32)).await.unwrap();
    assert_eq!(guest.from.text(999).await.unwrap(), full('c'));
    guest.ask(29, &"g".repeat(32)).await.unwrap();
    assert_eq!(guest.from.text(999).await.unwrap(), "");
    assert!(guest.ask(29, "../../../etc").await.unwrap_err().contains("hash part"));
    let mut figures = lab.store.figures();
    figures.refused.clear();
    assert_eq!((figures.shared_paths, figures.shared_bytes, figures.connections), (2, 2000, 1));
    lab.world().assert_held_before_asked();
}

#[tokio::test]
async fn derivations_are_described_if_they_are_valid() {
    let lab = Lab::new();
    lab.add('a', "");
    let mut guest = lab.guest().await;
    guest.ask(41, &full('a')).await.unwrap();
    assert_eq!(guest.from.list(1, 9).await.unwrap(), [b"out"]);
    assert_eq!(guest.from.bytes(99).await.unwrap(), b"/nix/store/out");
    assert!(guest.ask(41, &full('b')).await.unwrap_err().contains("is not valid"));
    assert!(guest.is_valid('a').await, "and the connection goes on");
    assert_eq!(guest.list(33, 'a').await, []);
}

#[tokio::test]
async fn a_path_with_changed_names_is_not_valid_in_any_answer_nor_is_what_refers_to_it() {
    let mut lab = Lab::new();
    for (letter, references) in [('a', "b"), ('b', "c"), ('c', ""), ('d', ""), ('f', "bd")] {
        lab.add(letter, references);
    }
    lab.change_name('c');
    for _ in ["found", "remembered"] {
        let mut guest = lab.guest().await;
        assert!(!guest.is_valid('a').await);
        assert_eq!(guest.info('b').await.unwrap(), None);
        assert_eq!(guest.valid_of("abcdf").await, ['d']);
        guest.ask(29, &"c".repeat(32)).await.unwrap();
        assert_eq!(guest.from.text(999).await.unwrap(), "");
        assert!(guest.ask(41, &full('a')).await.is_err());
        assert!(lab.known_paths().is_empty());
        let refused = lab.store.figures().refused;
        assert_eq!(refused.iter().map(|(path, _)| path.chars().last().unwrap()).collect::<String>(), "abcf");
        assert!(refused[2].1.contains("a~nix~case~hack~1"), "{refused:?}");
        assert!(refused[0].1.contains("it refers to"), "{refused:?}");
        // The same contents are not scanned again, not even by the next daemon.
        let _ = fs::remove_file(lab.file('c').join("a~nix~case~hack~1"));
        lab.restart();
    }
    lab.world().paths.get_mut(&path('c')).unwrap().0 = "other".into();
    assert!(lab.guest().await.is_valid('a').await);
    assert_eq!(lab.store.figures().refused, []);
}

#[tokio::test]
async fn a_path_that_is_not_in_the_share_is_not_valid() {
    let lab = Lab::new();
    lab.add('a', "b");
    lab.add('b', "");
    assert!(lab.guest().await.is_valid('b').await);
    fs::remove_dir(lab.file('b')).unwrap();
    assert_eq!(lab.guest().await.valid_of("ab").await, [], "though it was once seen to be in order");
    assert!(lab.store.figures().refused[1].1.contains("not in the shared directory"));
}

#[tokio::test]
async fn a_path_is_known_before_it_is_described_or_not_described() {
    let lab = Lab::new();
    lab.add('a', "");
    lab.add('b', "");
    let mut guest = lab.guest().await;
    assert!(guest.is_valid('a').await);
    assert_eq!(lab.known_paths(), "", "validity alone is not kept by the guest");
    guest.info('a').await.unwrap().unwrap();
    guest.info('a').await.unwrap().unwrap();
    assert_eq!(lab.known_paths(), format!("{} hasha 1000\n", path('a')));
    lab.store.forget_all().unwrap();
    fs::remove_file(lab.tmp.path().join("store-ledger")).unwrap();
    fs::create_dir(lab.tmp.path().join("store-ledger")).unwrap();
    assert!(guest.info('b').await.unwrap_err().contains("cannot note"), "known paths that cannot be written");
    assert!(lab.store.trusted_paths().is_empty());
    assert!(guest.is_valid('b').await, "the connection goes on");
}

#[tokio::test]
async fn a_closed_gate_says_that_nothing_is_valid() {
    let lab = Lab::new();
    lab.add('a', "");
    let mut guest = lab.guest().await;
    guest.info('a').await.unwrap().unwrap();
    assert!(lab.store.is_open());
    lab.store.close("the share lies");
    assert!(!lab.store.is_open());
    for mut guest in [guest, lab.guest().await] {
        assert!(!guest.is_valid('a').await);
        assert_eq!(guest.info('a').await.unwrap(), None);
        assert_eq!(guest.valid_of("a").await, []);
        assert_eq!(guest.list(6, 'a').await, []);
        assert!(guest.ask(41, &full('a')).await.is_err());
        guest.ask(29, &"a".repeat(32)).await.unwrap();
        assert_eq!(guest.from.text(999).await.unwrap(), "");
    }
    assert_eq!(lab.store.figures().closed.as_deref(), Some("the share lies"));
    assert_eq!(lab.store.open_session().await.unwrap().vanished, [full('a')]);
    assert_eq!(lab.store.trusted_paths(), [full('a')]);
    lab.store.reopen();
    assert!(lab.guest().await.is_valid('a').await);
}
