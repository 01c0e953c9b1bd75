//! One file for each verb, with its flags and its implementation.

pub mod boots;
pub mod capabilities;
pub mod complete;
pub mod completions;
pub mod config;
pub mod connect;
pub mod create;
pub mod daemon;
pub mod delete;
pub mod destroy;
pub mod doctor;
pub mod exec;
pub mod generations;
pub mod ip;
pub mod list;
pub mod logs;
pub mod nix_config;
#[cfg(test)]
mod nix_module_tests;
pub mod pause;
pub mod run;
pub mod screenshot;
pub mod set;
pub mod ssh;
pub mod start;
pub mod status;
pub mod stop;
pub mod suspend;
pub mod token;
