//! The machines of a library, on disk: what they are made of, and how they are made, cloned, changed and deleted.
//!
//! ```text
//! LIBRARY/
//!   machines/NAME/                  config.json  disk.img  nvram.bin  [state.vzvmsave]  machine.json
//!   staging/ID/                     what is being made or deleted; its lock is held by the process that works on it
//! ```
//!
//! A machine *is* its directory. The files and the keys of `config.json` are those of Tart, so that either program can use the
//! other's machines; `machine.json` beside it is ours. A machine is made in `staging/` and appears by one rename, which never
//! replaces another machine; a deleted machine goes back to `staging/` by one rename first. So a crash leaves each machine
//! whole or absent, and [`Library::open`] removes what was left in `staging/`.
//!
//! Rules of this crate: it knows files, not guests that run. All of it blocks. No function here formats a disk, and only
//! [`Library::delete`] deletes one. `unsafe` stands only in `space`, which asks the file system for the blocks of a file.

pub mod change;
pub mod config;
pub mod copy;
mod create;
mod library;
pub mod lock;
pub mod medium;
pub mod record;
pub mod space;
mod staging;
#[cfg(test)]
mod tests;

pub use create::NewMachine;
pub use library::{Entry, Files, Library, Machine, State};
