//! The chaos suite: random faults while builds run, and checks after each: leftovers, lost results, and whether the
//! next build succeeds without a command. The host's store is shared, and every build reads an input that only the host
//! has.
//!
//! ```text
//!   builds under way ─ wait at random ─ fault ─ builds end, well or not ─ next build ─ look for what is left or lost ─┐
//!          ▲                                                                                                          │
//!          └──────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! `make test` runs a few, always the same. `make chaos FAULTS=200` runs that many, of every kind, in two arenas at
//! once, each with its own daemon, guest and store: one core is idle while a guest boots. The seed is printed, and
//! `SEED=…` repeats order and times, as far as real processes can be repeated; `ONLY=QEMU` takes the faults with that
//! in their name, and `ARENAS=1` uses one arena. The table at the end is the result. A failed round is part of it, and
//! the next round has a new arena; SIGINT and SIGTERM print the table at once, and end the run after the round.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod aftermath;
mod arena;
mod faults;
#[path = "../e2e/inputs.rs"]
#[allow(dead_code, reason = "its other half is for the end-to-end tests")]
mod inputs;
mod interrupt;
#[path = "../e2e/lab.rs"]
#[allow(dead_code, reason = "its other half is for the end-to-end tests")]
mod lab;
mod outcome;

use arena::Arena;
use faults::Fault;
use interrupt::on_signal;
use outcome::{Outcome, Table};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::SystemTime,
};

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

/// That many faults with this in their names, each kind equally often.
fn chosen(random: &mut StdRng, only: &str, wanted: usize) -> Vec<Fault> {
    let kinds: Vec<_> = Fault::ALL.into_iter().filter(|fault| fault.name().contains(only)).collect();
    assert!(!kinds.is_empty(), "no fault has {only:?} in its name");
    let mut chosen = Vec::new();
    while chosen.len() < wanted {
        let mut deck = kinds.clone();
        deck.shuffle(random);
        chosen.extend(deck);
    }
    chosen.truncate(wanted);
    chosen
}

#[test]
fn every_fault_is_survived_without_loss_and_without_leftovers() {
    let by_chance = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = number("DVN_CHAOS_SEED").unwrap_or(by_chance);
    let wanted = number("DVN_CHAOS_FAULTS").map_or(Fault::ALL.len(), |n| usize::try_from(n).unwrap());
    let arenas = number("DVN_CHAOS_ARENAS").map_or(1, |n| usize::try_from(n).unwrap().max(1));
    println!("seed {seed}, {wanted} faults, {arenas} at once");
    let only = std::env::var("DVN_CHAOS_ONLY").unwrap_or_default();
    let faults = chosen(&mut StdRng::seed_from_u64(seed), &only, wanted);
    let run = Run { wanted, begun: AtomicUsize::new(0), table: Mutex::default(), interrupted: AtomicBool::new(false) };
    let run = Arc::new(run);
    on_signal({
        let run = Arc::clone(&run);
        move || run.interrupt()
    });
    thread::scope(|scope| {
        for arena in 0..arenas {
            let faults = faults.iter().skip(arena).step_by(arenas);
            // Each arena has its own random times, independent of the others.
            let random = StdRng::seed_from_u64(seed.wrapping_add(1 + arena as u64));
            let run = &run;
            scope.spawn(move || run.in_an_arena(faults, random));
        }
    });
    let table = run.table.lock().unwrap();
    println!("\n{table}");
    assert!(
        table.is_clean(),
        "seed {seed}: something was lost or left over, or a round or a next build failed; the table says what"
    );
    assert!(!run.interrupted.load(Ordering::SeqCst), "seed {seed}: interrupted before its end");
}

/// What all arenas share.
struct Run {
    wanted: usize,
    begun: AtomicUsize,
    table: Mutex<Table>,
    interrupted: AtomicBool,
}

impl Run {
    /// These faults, one after the other.
    fn in_an_arena<'a>(&self, faults: impl Iterator<Item = &'a Fault>, mut random: StdRng) {
        let mut standing = None;
        for &fault in faults {
            if self.interrupted.load(Ordering::SeqCst) {
                break;
            }
            let n = 1 + self.begun.fetch_add(1, Ordering::SeqCst);
            let outcome = round(&mut standing, fault, &mut random);
            println!("{n}/{} {}: {outcome}", self.wanted, fault.name());
            self.table.lock().unwrap().record(fault, &outcome);
        }
        if let Some(arena) = standing {
            let outcome = broken_or(|| arena.end());
            self.table.lock().unwrap().add("(at rest)", &outcome);
        }
    }

    /// The first signal prints the table as it is and ends the run after the rounds under way; the second ends it at
    /// once.
    fn interrupt(&self) {
        if self.interrupted.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        println!("\ninterrupted; once the rounds under way are done, all is removed\n{}", self.table.lock().unwrap());
    }
}

/// A round in the existing arena, or in a new one. An arena whose round fails is dropped, and its message is the
/// outcome.
fn round(standing: &mut Option<Arena>, fault: Fault, random: &mut StdRng) -> Outcome {
    let arena = standing.take();
    broken_or(|| {
        let mut arena = arena.unwrap_or_else(Arena::new);
        let outcome = arena.round(fault, random);
        *standing = Some(arena);
        outcome
    })
}

/// The outcome, also of a panic, which has printed its reason.
fn broken_or(what: impl FnOnce() -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_default().lines().next().unwrap_or_default().to_owned();
        Outcome { broken: Some(text), ..Outcome::default() }
    })
}
