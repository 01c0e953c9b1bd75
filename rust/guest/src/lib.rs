//! Turns checked settings into a guest that answers: bundle, data disk, boot payload, agent, readiness.
//!
//! `docs/guest-contract.md` is the contract between this crate and every guest.

pub mod agent;
pub mod boots;
pub mod builder;
pub mod bundle;
pub mod disk;
pub mod payload;
pub mod service;
pub mod sharing;
pub mod ssh;
pub mod symptoms;
