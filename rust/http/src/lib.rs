//! The local HTTP API: the one way in which other programs, our own CLI included, speak with the daemon.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/health` | `{}` once the daemon serves |
//! | `GET /v1/status?after=N&timeout=SECONDS` | [`DaemonStatus`](dvn_types::wire::DaemonStatus); with `after`, once its generation is greater than N or the time is over |
//! | `POST /v1/machines/NAME/start` | boots it and answers when it runs; body [`StartRequest`](dvn_types::wire::StartRequest) or none |
//! | `POST /v1/machines/NAME/stop` | stops it and answers when it is off; body [`StopRequest`](dvn_types::wire::StopRequest) or none |
//! | `POST /v1/machines/NAME/pause`, `…/resume` | has its guest stand still, or go on; answers when it does |
//! | `POST /v1/machines/NAME/trim` | has the guest, which is started, give back what it does not use; answers [`Trimmed`](dvn_types::wire::Trimmed) |
//! | `DELETE /v1/machines/NAME?keepKeys=BOOL&keepGenerations=BOOL` | stops it and deletes its state |
//! | `GET /v1/machines/NAME/generations` | [`GenerationList`](dvn_types::wire::GenerationList) |
//! | `POST /v1/machines/NAME/generations/rollback` | goes to another one at the next boot; body [`RollbackRequest`](dvn_types::wire::RollbackRequest) or none |
//! | `POST /v1/machines/NAME/generations/build` | has the recipe built and tried, also after a failure; answers at once |
//! | `DELETE /v1/machines/NAME/generations/N` | deletes one that is not in use |
//! | `GET /v1/machines/NAME/build-log?follow=BOOL&lines=N` | what was said when the recipe was built, as text |
//! | `GET /v1/machines/NAME/console?follow=BOOL&lines=N&boot=B` | the guest's console as text, in the present or an earlier boot |
//! | `GET /v1/machines/NAME/boots` | [`BootList`](dvn_types::wire::BootList): what is known of the last boots |
//! | `GET /v1/machines/NAME/capabilities` | [`BackendView`](dvn_types::wire::BackendView): what the backend can do, as the daemon finds it |
//! | `GET /v1/machines/NAME/connect/ssh` or `…/nix` | with `Upgrade: darwin-vz-stream`: a byte stream to the guest, which is started |
//! | `GET /v1/logs?follow=BOOL&lines=N` | the daemon's log as text |
//! | `GET /v1/events` | [`Event`](dvn_types::wire::Event)s as server-sent events; `lagged` tells a slow reader how many it missed |
//! | `GET /v1/connections` | [`Connections`](dvn_types::wire::Connections): what goes through the doors now |
//! | `GET /v1/config` | [`ConfigView`](dvn_types::wire::ConfigView): the settings that the daemon goes by, with their origins |
//! | `GET /v1/metrics` | what the daemon counts, in OpenMetrics |
//! | `GET /v1/openapi.json` | all this in OpenAPI; `docs/openapi.json` is a copy |
//! | `POST /v1/shutdown` | stops every guest, answers, and ends the daemon |
//!
//! Every failure is a [`dvn_types::Report`] in JSON. The socket is a Unix socket of mode 0600: who may open it, may do all
//! of it. On TCP, which is off unless configured, [`tcp`] asks for a token.

mod boots;
mod capabilities;
pub mod control;
mod generations;
mod given;
mod headers;
mod openapi;
mod reception;
mod refusal;
pub mod router;
mod routes;
mod seats;
pub mod server;
mod shared;
mod streams;
pub mod tcp;
