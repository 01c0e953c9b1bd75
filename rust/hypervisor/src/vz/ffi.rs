//! The interface between Rust and Swift, in swift-bridge's language. A separate file, because swift-bridge's parser
//! does not support the Rust syntax of the others.

// The code that the macro generates has no comments.
#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]

use super::sink::EventSink;
pub use bridge::{ShimError, ShimMachine, shim_capabilities, shim_machine, shim_machine_identifier};

// Only features of swift-bridge that are known to be safe; docs/ffi.md lists those that are not.
#[swift_bridge::bridge]
mod bridge {
    enum ShimError {
        Failed(i64, String, String),
    }

    extern "Rust" {
        #[swift_bridge(Sendable)]
        type EventSink;
        fn done(self: &EventSink, op: u64);
        fn connected(self: &EventSink, op: u64, connection: u64, descriptor: i32);
        fn failed(self: &EventSink, op: u64, code: i64, domain: String, text: String);
        fn accepted(self: &EventSink, port: u32, connection: u64, descriptor: i32);
        fn stopped(self: &EventSink);
        fn crashed(self: &EventSink, code: i64, domain: String, text: String);
        #[swift_bridge(swift_name = "networkLost")]
        fn network_lost(self: &EventSink, code: i64, domain: String, text: String);
    }

    extern "Swift" {
        #[swift_bridge(Sendable)]
        type ShimMachine;
        #[swift_bridge(swift_name = "shimMachine")]
        fn shim_machine(spec: String, sink: EventSink) -> Result<ShimMachine, ShimError>;
        fn start(self: &ShimMachine, op: u64);
        fn stop(self: &ShimMachine, op: u64);
        fn pause(self: &ShimMachine, op: u64);
        fn resume(self: &ShimMachine, op: u64);
        #[swift_bridge(swift_name = "requestStop")]
        fn request_stop(self: &ShimMachine, op: u64);
        #[swift_bridge(swift_name = "canSave")]
        fn can_save(self: &ShimMachine, op: u64);
        fn save(self: &ShimMachine, op: u64, path: String);
        fn restore(self: &ShimMachine, op: u64, path: String);
        fn connect(self: &ShimMachine, op: u64, port: u32);
        fn listen(self: &ShimMachine, op: u64, port: u32);
        fn unlisten(self: &ShimMachine, op: u64, port: u32);
        fn release(self: &ShimMachine, connection: u64);
        #[swift_bridge(swift_name = "shimCapabilities")]
        fn shim_capabilities() -> String;
        #[swift_bridge(swift_name = "shimMachineIdentifier")]
        fn shim_machine_identifier() -> String;
    }
}
