//! Guest systems built by the guest itself. The host passes a *recipe*, a `.drv` whose output is a guest bundle, to the
//! running guest, which builds it. The result, a *generation*, becomes the guest.
//!
//! ```text
//!  recipe ──▶ reconciler ── builds it ──▶ nix (the host's) ──▶ direct door ──▶ guest
//!               │  ▲                                                            │
//!               │  └────────────── store ◀── a bundle, checked ◀────────────────┘
//!               │ an idle moment
//!               ▼
//!             try: stop, boot it, READY, a build ──▶ good: it boots from now on
//!                                                └─▶ bad: the last good one boots again
//! ```
//!
//! Generation 0 is the configured bundle: it exists before any other, cannot be deleted, and is used without proof.
//! `generation_state` decides what boots, `reconciler` acts, and only the supervisor boots and kills guests.
//!
//! Rule: a client never gets a generation that has not been seen to work. Tries happen without leases, under the lock
//! that clients wait for, and end with a good guest.

mod files;
mod generation_state;
mod generations;
mod health;
mod hints;
mod nix;
mod reconciler;
mod store;

pub use files::{Files, Reading};
pub use generations::{Generations, examine};
#[cfg(fuzzing)]
pub use health::ask as ask_to_build;
pub use nix::{Nix, TimeLimits, environment};
pub use reconciler::Reconciler;
