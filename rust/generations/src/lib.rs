//! Guest systems that the guest itself built. The host carries a *recipe*, a `.drv` whose output is a guest bundle; the guest
//! that runs builds it, and the result, a *generation*, becomes the guest.
//!
//! ```text
//!  recipe ──▶ keeper ── has it built ──▶ nix (the host's) ──▶ direct door ──▶ guest
//!               │  ▲                                                            │
//!               │  └────────────── store ◀── a bundle, checked ◀────────────────┘
//!               │ an idle moment
//!               ▼
//!             try: stop, boot it, READY, a build ──▶ good: it boots from now on
//!                                                └─▶ bad: the last good one boots again
//! ```
//!
//! Generation 0 is the configured bundle: it is there before any other, is never deleted, and nothing is proven of it.
//! `ledger` decides what boots, `keeper` acts, and the supervisor alone boots and kills, as for anybody else.
//!
//! The rule that holds here: a client never meets a generation that has not been seen to work. Tries happen while nobody holds a
//! lease, under the lock that clients wait for, and end with a guest that is good.

mod generations;
mod health;
mod hints;
mod keeper;
mod ledger;
mod nix;
mod store;

pub use generations::{Generations, examine};
#[cfg(fuzzing)]
pub use health::ask as ask_to_build;
pub use keeper::Keeper;
pub use nix::{Nix, Patience, environment};
