//! The local HTTP API, through which other programs, the CLI included, control the daemon.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/health` | `{}` once the daemon serves |
//! | `GET /v1/status?after=N&timeout=SECONDS` | [`DaemonStatus`](dvn_types::wire::DaemonStatus); with `after`, once its generation is greater than N or the time is over |
//! | `GET /v1/machines?space=BOOL` | [`MachineList`](dvn_types::wire::MachineList): the builders and all machines of the library; with `space`, the blocks of their disks |
//! | `POST /v1/machines` | makes a machine of the library; body [`CreateRequest`](dvn_types::wire::CreateRequest); answers [`Vm`](dvn_types::wire::Vm) |
//! | `GET`, `PATCH`, `DELETE /v1/machines/NAME` | shows it, changes it by a [`SetRequest`](dvn_types::wire::SetRequest), deletes it |
//! | `POST /v1/machines/NAME/clone`, `…/rename` | copies it, renames it; body [`NameRequest`](dvn_types::wire::NameRequest); answers [`Vm`](dvn_types::wire::Vm) |
//! | `POST /v1/machines/NAME/run` | boots a machine of the library with further devices; body [`RunRequest`](dvn_types::wire::RunRequest) or none |
//! | `POST /v1/machines/NAME/suspend` | saves its memory and ends its guest; answers when that is done |
//! | `GET /v1/machines/NAME/addresses` | [`Addresses`](dvn_types::wire::Addresses) of the running guest |
//! | `GET /v1/machines/NAME/screenshot` | its screen as a PNG |
//! | `GET /v1/machines/NAME/agent` | with `Upgrade: darwin-vz-stream`: a byte stream to the agent of the running guest |
//! | `POST /v1/machines/NAME/start` | boots it and answers when it runs; body [`StartRequest`](dvn_types::wire::StartRequest) or none |
//! | `POST /v1/machines/NAME/stop` | stops it and answers when it is off, with how it ended; body [`StopRequest`](dvn_types::wire::StopRequest) or none |
//! | `POST /v1/machines/NAME/pause`, `…/resume` | pauses or resumes its guest; answers when that is done |
//! | `POST /v1/machines/NAME/trim` | makes the guest, which is started if needed, discard unused disk blocks on the host; answers [`Trimmed`](dvn_types::wire::Trimmed) |
//! | `GET /v1/machines/NAME/generations` | [`GenerationList`](dvn_types::wire::GenerationList) |
//! | `POST /v1/machines/NAME/generations/rollback` | selects the generation of the next boot; body [`RollbackRequest`](dvn_types::wire::RollbackRequest) or none |
//! | `POST /v1/machines/NAME/generations/build` | requests a build and a trial of the recipe, also after a failure; answers at once |
//! | `DELETE /v1/machines/NAME/generations/N` | deletes one that is not in use |
//! | `GET /v1/machines/NAME/build-log?follow=BOOL&lines=N` | the log of the last build of the recipe, as text |
//! | `GET /v1/machines/NAME/console?follow=BOOL&lines=N&boot=B` | the guest's console as text, in the present or an earlier boot |
//! | `GET /v1/machines/NAME/boots` | [`BootList`](dvn_types::wire::BootList): the records of the last boots |
//! | `GET /v1/machines/NAME/capabilities` | [`BackendView`](dvn_types::wire::BackendView): what the backend can do, as the daemon determines it |
//! | `GET /v1/machines/NAME/connect/ssh` or `…/nix` | with `Upgrade: darwin-vz-stream`: a byte stream to the guest, which is started |
//! | `GET /v1/logs?follow=BOOL&lines=N` | the daemon's log as text |
//! | `GET /v1/events` | [`Event`](dvn_types::wire::Event)s as server-sent events; `lagged` gives the number that a slow reader missed |
//! | `GET /v1/connections` | [`Connections`](dvn_types::wire::Connections): the open connections |
//! | `GET /v1/config` | [`ConfigView`](dvn_types::wire::ConfigView): the daemon's settings, with their origins |
//! | `GET /v1/metrics` | the daemon's metrics, in OpenMetrics |
//! | `GET /v1/openapi.json` | this API in OpenAPI; `docs/openapi.json` is a copy |
//! | `POST /v1/shutdown` | stops every guest, answers, and ends the daemon |
//!
//! Every failure is a [`dvn_types::Report`] in JSON. The socket is a Unix socket of mode 0600: a user that can open it
//! may use all of the API. On TCP, which is off unless configured, [`tcp`] requires a token.

mod accept;
mod boots;
mod capabilities;
mod connection_limits;
pub mod control;
mod generations;
mod given;
mod headers;
mod library;
pub mod library_control;
mod openapi;
mod refusal;
pub mod router;
mod routes;
pub mod server;
mod shared;
mod streams;
pub mod tcp;
