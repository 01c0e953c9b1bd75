//! The state alone: each rule by an example, and all of them under random events.

use super::*;
use proptest::prelude::*;

fn recipe(name: &str) -> PathBuf {
    format!("/nix/store/{name}.drv").into()
}

fn why() -> Report {
    Report::new(Kind::Boot, "the kernel panicked")
}

fn all(state: &GenerationState) -> BTreeSet<u32> {
    state.generations().map(|(number, _)| number).collect()
}

/// A state in which each of these recipes was built and found good.
fn good(names: &[&str]) -> GenerationState {
    let mut state = GenerationState::default();
    for name in names {
        let number = state.built(recipe(name), String::new(), 0);
        state.good(number);
    }
    state
}

#[test]
fn a_recipe_is_built_tried_once_and_then_boots() {
    let (mut state, a) = (GenerationState::default(), recipe("a"));
    assert_eq!(state.next(None), Next::Nothing);
    assert_eq!(state.next(Some(&a)), Next::Build);
    assert_eq!(state.built(a.clone(), String::new(), 0), 1);
    assert_eq!((state.next(Some(&a)), state.current()), (Next::Try(1), 0));
    state.trying(1);
    state.good(1);
    assert_eq!((state.next(Some(&a)), state.current()), (Next::Nothing, 1));
}

#[test]
fn what_does_not_come_up_is_not_tried_again_until_it_is_asked_for() {
    let (mut state, b) = (good(&["a"]), recipe("b"));
    state.built(b.clone(), String::new(), 0);
    state.bad(2, why());
    assert_eq!((state.next(Some(&b)), state.current()), (Next::Nothing, 1));
    state.follow(Some(&b), &all(&state));
    assert_eq!((state.next(Some(&b)), state.current()), (Next::Nothing, 1));
    state.build_again(Some(&b)).unwrap();
    assert_eq!(state.next(Some(&b)), Next::Build);
    assert_eq!(state.built(b.clone(), String::new(), 0), 3);
    assert_eq!(state.next(Some(&b)), Next::Try(3));
}

#[test]
fn what_was_good_once_is_not_made_bad() {
    let mut state = good(&["a"]);
    state.bad(1, why());
    assert_eq!(state.of(Some(&recipe("a"))).unwrap().1.verdict, Verdict::Good);
}

#[test]
fn tries_without_a_known_end_are_counted_and_aborted_ones_are_not() {
    let (mut state, a) = (GenerationState::default(), recipe("a"));
    state.built(a.clone(), String::new(), 0);
    for _ in 0..9 {
        state.trying(1);
        state.aborted(1);
    }
    for _ in 0..UNSEEN_TRIES {
        state.follow(Some(&a), &all(&state));
        assert_eq!(state.next(Some(&a)), Next::Try(1));
        state.trying(1);
    }
    state.follow(Some(&a), &all(&state));
    assert_eq!(state.next(Some(&a)), Next::Nothing);
}

#[test]
fn going_back_lasts_until_the_recipe_changes() {
    let (mut state, b, c) = (good(&["a", "b"]), recipe("b"), recipe("c"));
    assert_eq!(state.roll_back(None, Some(&b)), Ok(1));
    state.follow(Some(&b), &all(&state));
    assert_eq!((state.current(), state.is_held(), state.next(Some(&b))), (1, true, Next::Nothing));
    assert_eq!(state.roll_back(None, Some(&b)), Ok(0));
    assert_eq!(state.roll_back(None, Some(&b)), Err(Refusal::NothingBefore));
    state.follow(Some(&c), &all(&state));
    assert_eq!((state.current(), state.next(Some(&c))), (0, Next::Build));
    // Going to the recipe's own generation is not a rollback.
    state.follow(Some(&b), &all(&state));
    state.roll_back(Some(1), Some(&b)).unwrap();
    state.roll_back(Some(2), Some(&b)).unwrap();
    assert_eq!((state.current(), state.is_held()), (2, false));
    assert_eq!(state.roll_back(Some(9), Some(&b)), Err(Refusal::Unknown(9)));
}

#[test]
fn a_former_recipe_boots_what_it_had_and_none_boots_the_bundle() {
    let mut state = good(&["a", "b"]);
    state.follow(Some(&recipe("a")), &all(&state));
    assert_eq!((state.current(), state.next(Some(&recipe("a")))), (1, Next::Nothing));
    state.follow(None, &all(&state));
    assert_eq!((state.current(), state.next(None)), (0, Next::Nothing));
}

#[test]
fn a_generation_whose_files_are_gone_is_forgotten() {
    let mut state = good(&["a", "b"]);
    state.follow(Some(&recipe("b")), &BTreeSet::from([1]));
    assert_eq!((state.current(), state.next(Some(&recipe("b")))), (0, Next::Build));
    assert_eq!(state.built(recipe("b"), String::new(), 0), 3, "no number is used twice");
}

#[test]
fn only_what_is_not_in_use_is_deleted() {
    let mut state = good(&["a", "b", "c"]);
    assert_eq!(state.delete(0, &[]), Err(Refusal::Floor));
    assert_eq!(state.delete(3, &[]), Err(Refusal::InUse(3)));
    assert_eq!(state.delete(2, &[2]), Err(Refusal::InUse(2)));
    assert_eq!(state.delete(2, &[]), Ok(()));
    assert_eq!(state.delete(2, &[]), Err(Refusal::Unknown(2)));
}

#[test]
fn the_current_one_the_good_one_before_and_a_few_others_are_kept() {
    let mut state = good(&["a", "b"]);
    for name in ["c", "d", "e", "f", "g"] {
        let number = state.built(recipe(name), String::new(), 0);
        state.bad(number, why());
    }
    let number = state.built(recipe("h"), String::new(), 0);
    state.good(number);
    assert_eq!(state.prune(&[]), [4, 3, 1]);
    assert_eq!(all(&state), BTreeSet::from([2, 5, 6, 7, 8]));
    assert!(state.prune(&[]).is_empty());
}

#[test]
fn it_reads_what_it_wrote() {
    let mut state = good(&["a", "b"]);
    state.built(recipe("c"), "/nix/store/c".into(), 5);
    state.trying(3);
    state.roll_back(Some(1), Some(&recipe("c"))).unwrap();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<GenerationState>(&text).unwrap(), state, "{text}");
}

#[derive(Clone, Debug)]
enum Event {
    Restart,
    Recipe(Option<u8>),
    Act(Outcome),
    Rollback(Option<u32>),
    BuildAgain,
    Delete(u32),
    Prune,
}

/// The outcome of the next step, if it is a try.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Good,
    Bad,
    Aborted,
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![Just(Outcome::Good), Just(Outcome::Bad), Just(Outcome::Aborted), Just(Outcome::Crash)];
    prop_oneof![
        1 => Just(Event::Restart),
        1 => proptest::option::of(0u8..4).prop_map(Event::Recipe),
        4 => outcome.prop_map(Event::Act),
        1 => proptest::option::of(0u32..12).prop_map(Event::Rollback),
        1 => Just(Event::BuildAgain),
        1 => (0u32..12).prop_map(Event::Delete),
        1 => Just(Event::Prune),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_only_what_was_good_boots(events in proptest::collection::vec(event(), 0..60)) {
        let (mut state, mut configured) = (GenerationState::default(), None::<PathBuf>);
        let mut ever_good = BTreeSet::from([0]);
        for event in events {
            let before = state.clone();
            let recipe = configured.clone();
            let recipe = recipe.as_deref();
            match event {
                Event::Restart => state.follow(recipe, &all(&state)),
                Event::Recipe(name) => {
                    configured = name.map(|name| self::recipe(&name.to_string()));
                    state.follow(configured.as_deref(), &all(&state));
                    if configured.is_none() && !state.is_held() {
                        prop_assert_eq!(state.current(), 0);
                    }
                }
                Event::Act(outcome) => match state.next(recipe) {
                    Next::Nothing => {}
                    Next::Build => {
                        let number = state.built(recipe.unwrap().to_owned(), String::new(), 0);
                        prop_assert_eq!(state.next(recipe), Next::Try(number));
                    }
                    Next::Try(number) => {
                        prop_assert!(!ever_good.contains(&number));
                        state.trying(number);
                        match outcome {
                            Outcome::Good => {
                                state.good(number);
                                ever_good.insert(number);
                                prop_assert_eq!(state.current(), number);
                            }
                            Outcome::Bad => state.bad(number, why()),
                            Outcome::Aborted => state.aborted(number),
                            Outcome::Crash => state.follow(recipe, &all(&state)),
                        }
                        if matches!(outcome, Outcome::Good | Outcome::Bad) {
                            prop_assert_eq!(state.next(recipe), Next::Nothing, "a verdict ends the tries");
                        }
                    }
                },
                Event::Rollback(to) => match state.roll_back(to, recipe) {
                    Ok(_) => prop_assert_eq!(state.next(recipe), Next::Nothing),
                    Err(_) => prop_assert_eq!(&state, &before),
                },
                Event::BuildAgain => prop_assert_eq!(state.build_again(recipe).is_ok(), recipe.is_some()),
                Event::Delete(number) => {
                    let _ = state.delete(number, &[]);
                }
                Event::Prune => {
                    state.prune(&[]);
                    prop_assert!(all(&state).len() <= KEPT + 3);
                }
            }
            prop_assert!(ever_good.contains(&state.current()), "{} boots", state.current());
            prop_assert!(state.current() == 0 || all(&state).contains(&state.current()));
        }
    }
}
