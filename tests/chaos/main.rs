//! The chaos suite: faults at random moments while builds run, and after each: is anything left over, is anything lost, and
//! does the next build succeed without a command? The host's store is shared, and every build reads an input that only the
//! host has.
//!
//! ```text
//!   builds under way ─ wait at random ─ fault ─ builds end, well or not ─ next build ─ look for what is left or lost ─┐
//!          ▲                                                                                                          │
//!          └──────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! `make test` has a few, always the same; `make chaos FAULTS=200` has as many as are asked for, of every kind. The seed is printed, and
//! `SEED=…` repeats the order and the moments, as far as real processes can be repeated; `ONLY=QEMU` takes
//! the faults with that in their name. The table at the end is the result.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod arena;
mod faults;
#[path = "../e2e/inputs.rs"]
#[allow(dead_code, reason = "its other half is for the end-to-end tests")]
mod inputs;
#[path = "../e2e/lab.rs"]
#[allow(dead_code, reason = "its other half is for the end-to-end tests")]
mod lab;
mod outcome;

use arena::Arena;
use faults::Fault;
use outcome::Table;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::time::SystemTime;

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

/// So many faults with this in their names, each kind as often as any other.
fn dealt(random: &mut StdRng, only: &str, wanted: usize) -> Vec<Fault> {
    let kinds: Vec<_> = Fault::ALL.into_iter().filter(|fault| fault.name().contains(only)).collect();
    assert!(!kinds.is_empty(), "no fault has {only:?} in its name");
    let mut dealt = Vec::new();
    while dealt.len() < wanted {
        let mut deck = kinds.clone();
        deck.shuffle(random);
        dealt.extend(deck);
    }
    dealt.truncate(wanted);
    dealt
}

#[test]
fn every_fault_is_survived_without_loss_and_without_leftovers() {
    let by_chance = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = number("DVN_CHAOS_SEED").unwrap_or(by_chance);
    let wanted = number("DVN_CHAOS_FAULTS").map_or(Fault::ALL.len(), |n| usize::try_from(n).unwrap());
    println!("seed {seed}, {wanted} faults");
    let mut random = StdRng::seed_from_u64(seed);
    let only = std::env::var("DVN_CHAOS_ONLY").unwrap_or_default();
    let faults = dealt(&mut random, &only, wanted);
    let mut arena = Arena::new();
    let mut table = Table::default();
    for (n, fault) in (1..).zip(faults) {
        let outcome = arena.round(fault, &mut random);
        println!("{n}/{wanted} {}: {outcome}", fault.name());
        table.enter(fault, &outcome);
    }
    arena.end(&mut table);
    println!("\n{table}");
    assert!(
        table.is_clean(),
        "seed {seed}: something was lost or left over, or a next build failed; the table says what"
    );
}
