//! The ledger alone: each rule by an example, and all of them under anything that can happen.

use super::*;
use proptest::prelude::*;

fn recipe(name: &str) -> PathBuf {
    format!("/nix/store/{name}.drv").into()
}

fn why() -> Report {
    Report::new(Kind::Boot, "the kernel panicked")
}

fn all(ledger: &Ledger) -> BTreeSet<u32> {
    ledger.generations().map(|(number, _)| number).collect()
}

/// A ledger in which each of these recipes was built and found good.
fn good(names: &[&str]) -> Ledger {
    let mut ledger = Ledger::default();
    for name in names {
        let number = ledger.built(recipe(name), String::new(), 0);
        ledger.good(number);
    }
    ledger
}

#[test]
fn a_recipe_is_built_tried_once_and_then_boots() {
    let (mut ledger, a) = (Ledger::default(), recipe("a"));
    assert_eq!(ledger.next(None), Next::Nothing);
    assert_eq!(ledger.next(Some(&a)), Next::Build);
    assert_eq!(ledger.built(a.clone(), String::new(), 0), 1);
    assert_eq!((ledger.next(Some(&a)), ledger.current()), (Next::Try(1), 0));
    ledger.trying(1);
    ledger.good(1);
    assert_eq!((ledger.next(Some(&a)), ledger.current()), (Next::Nothing, 1));
}

#[test]
fn what_does_not_come_up_is_not_tried_again_until_it_is_asked_for() {
    let (mut ledger, b) = (good(&["a"]), recipe("b"));
    ledger.built(b.clone(), String::new(), 0);
    ledger.bad(2, why());
    assert_eq!((ledger.next(Some(&b)), ledger.current()), (Next::Nothing, 1));
    ledger.follow(Some(&b), &all(&ledger));
    assert_eq!((ledger.next(Some(&b)), ledger.current()), (Next::Nothing, 1));
    ledger.build_again(Some(&b)).unwrap();
    assert_eq!(ledger.next(Some(&b)), Next::Build);
    assert_eq!(ledger.built(b.clone(), String::new(), 0), 3);
    assert_eq!(ledger.next(Some(&b)), Next::Try(3));
}

#[test]
fn what_was_good_once_is_not_made_bad() {
    let mut ledger = good(&["a"]);
    ledger.bad(1, why());
    assert_eq!(ledger.of(Some(&recipe("a"))).unwrap().1.verdict, Verdict::Good);
}

#[test]
fn tries_that_nobody_saw_end_are_counted_and_those_cut_short_are_not() {
    let (mut ledger, a) = (Ledger::default(), recipe("a"));
    ledger.built(a.clone(), String::new(), 0);
    for _ in 0..9 {
        ledger.trying(1);
        ledger.cut_short(1);
    }
    for _ in 0..UNSEEN_TRIES {
        ledger.follow(Some(&a), &all(&ledger));
        assert_eq!(ledger.next(Some(&a)), Next::Try(1));
        ledger.trying(1);
    }
    ledger.follow(Some(&a), &all(&ledger));
    assert_eq!(ledger.next(Some(&a)), Next::Nothing);
}

#[test]
fn going_back_lasts_until_the_recipe_changes() {
    let (mut ledger, b, c) = (good(&["a", "b"]), recipe("b"), recipe("c"));
    assert_eq!(ledger.roll_back(None, Some(&b)), Ok(1));
    ledger.follow(Some(&b), &all(&ledger));
    assert_eq!((ledger.current(), ledger.is_held(), ledger.next(Some(&b))), (1, true, Next::Nothing));
    assert_eq!(ledger.roll_back(None, Some(&b)), Ok(0));
    assert_eq!(ledger.roll_back(None, Some(&b)), Err(Refusal::NothingBefore));
    ledger.follow(Some(&c), &all(&ledger));
    assert_eq!((ledger.current(), ledger.next(Some(&c))), (0, Next::Build));
    // To the recipe's own is no going back.
    ledger.follow(Some(&b), &all(&ledger));
    ledger.roll_back(Some(1), Some(&b)).unwrap();
    ledger.roll_back(Some(2), Some(&b)).unwrap();
    assert_eq!((ledger.current(), ledger.is_held()), (2, false));
    assert_eq!(ledger.roll_back(Some(9), Some(&b)), Err(Refusal::Unknown(9)));
}

#[test]
fn a_former_recipe_boots_what_it_had_and_none_boots_the_bundle() {
    let mut ledger = good(&["a", "b"]);
    ledger.follow(Some(&recipe("a")), &all(&ledger));
    assert_eq!((ledger.current(), ledger.next(Some(&recipe("a")))), (1, Next::Nothing));
    ledger.follow(None, &all(&ledger));
    assert_eq!((ledger.current(), ledger.next(None)), (0, Next::Nothing));
}

#[test]
fn a_generation_whose_files_are_gone_is_forgotten() {
    let mut ledger = good(&["a", "b"]);
    ledger.follow(Some(&recipe("b")), &BTreeSet::from([1]));
    assert_eq!((ledger.current(), ledger.next(Some(&recipe("b")))), (0, Next::Build));
    assert_eq!(ledger.built(recipe("b"), String::new(), 0), 3, "no number is used twice");
}

#[test]
fn only_what_is_not_in_use_is_deleted() {
    let mut ledger = good(&["a", "b", "c"]);
    assert_eq!(ledger.delete(0, &[]), Err(Refusal::Floor));
    assert_eq!(ledger.delete(3, &[]), Err(Refusal::InUse(3)));
    assert_eq!(ledger.delete(2, &[2]), Err(Refusal::InUse(2)));
    assert_eq!(ledger.delete(2, &[]), Ok(()));
    assert_eq!(ledger.delete(2, &[]), Err(Refusal::Unknown(2)));
}

#[test]
fn the_current_one_the_good_one_before_and_a_few_others_are_kept() {
    let mut ledger = good(&["a", "b"]);
    for name in ["c", "d", "e", "f", "g"] {
        let number = ledger.built(recipe(name), String::new(), 0);
        ledger.bad(number, why());
    }
    let number = ledger.built(recipe("h"), String::new(), 0);
    ledger.good(number);
    assert_eq!(ledger.prune(&[]), [4, 3, 1]);
    assert_eq!(all(&ledger), BTreeSet::from([2, 5, 6, 7, 8]));
    assert!(ledger.prune(&[]).is_empty());
}

#[test]
fn it_reads_what_it_wrote() {
    let mut ledger = good(&["a", "b"]);
    ledger.built(recipe("c"), "/nix/store/c".into(), 5);
    ledger.trying(3);
    ledger.roll_back(Some(1), Some(&recipe("c"))).unwrap();
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger, "{text}");
}

#[derive(Clone, Debug)]
enum Happening {
    Restart,
    Recipe(Option<u8>),
    Act(Outcome),
    Rollback(Option<u32>),
    BuildAgain,
    Delete(u32),
    Prune,
}

/// How the next thing to do ends, where it is a try.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Good,
    Bad,
    CutShort,
    Crash,
}

fn happening() -> impl Strategy<Value = Happening> {
    let outcome = prop_oneof![Just(Outcome::Good), Just(Outcome::Bad), Just(Outcome::CutShort), Just(Outcome::Crash)];
    prop_oneof![
        1 => Just(Happening::Restart),
        1 => proptest::option::of(0u8..4).prop_map(Happening::Recipe),
        4 => outcome.prop_map(Happening::Act),
        1 => proptest::option::of(0u32..12).prop_map(Happening::Rollback),
        1 => Just(Happening::BuildAgain),
        1 => (0u32..12).prop_map(Happening::Delete),
        1 => Just(Happening::Prune),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_only_what_was_good_boots(happenings in proptest::collection::vec(happening(), 0..60)) {
        let (mut ledger, mut configured) = (Ledger::default(), None::<PathBuf>);
        let mut ever_good = BTreeSet::from([0]);
        for happening in happenings {
            let before = ledger.clone();
            let recipe = configured.clone();
            let recipe = recipe.as_deref();
            match happening {
                Happening::Restart => ledger.follow(recipe, &all(&ledger)),
                Happening::Recipe(name) => {
                    configured = name.map(|name| self::recipe(&name.to_string()));
                    ledger.follow(configured.as_deref(), &all(&ledger));
                    if configured.is_none() && !ledger.is_held() {
                        prop_assert_eq!(ledger.current(), 0);
                    }
                }
                Happening::Act(outcome) => match ledger.next(recipe) {
                    Next::Nothing => {}
                    Next::Build => {
                        let number = ledger.built(recipe.unwrap().to_owned(), String::new(), 0);
                        prop_assert_eq!(ledger.next(recipe), Next::Try(number));
                    }
                    Next::Try(number) => {
                        prop_assert!(!ever_good.contains(&number));
                        ledger.trying(number);
                        match outcome {
                            Outcome::Good => {
                                ledger.good(number);
                                ever_good.insert(number);
                                prop_assert_eq!(ledger.current(), number);
                            }
                            Outcome::Bad => ledger.bad(number, why()),
                            Outcome::CutShort => ledger.cut_short(number),
                            Outcome::Crash => ledger.follow(recipe, &all(&ledger)),
                        }
                        if matches!(outcome, Outcome::Good | Outcome::Bad) {
                            prop_assert_eq!(ledger.next(recipe), Next::Nothing, "a verdict ends the tries");
                        }
                    }
                },
                Happening::Rollback(to) => match ledger.roll_back(to, recipe) {
                    Ok(_) => prop_assert_eq!(ledger.next(recipe), Next::Nothing),
                    Err(_) => prop_assert_eq!(&ledger, &before),
                },
                Happening::BuildAgain => prop_assert_eq!(ledger.build_again(recipe).is_ok(), recipe.is_some()),
                Happening::Delete(number) => {
                    let _ = ledger.delete(number, &[]);
                }
                Happening::Prune => {
                    ledger.prune(&[]);
                    prop_assert!(all(&ledger).len() <= KEPT + 3);
                }
            }
            prop_assert!(ever_good.contains(&ledger.current()), "{} boots", ledger.current());
            prop_assert!(ledger.current() == 0 || all(&ledger).contains(&ledger.current()));
        }
    }
}
