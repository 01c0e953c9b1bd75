//! `token`: the token that the API requires on TCP. It is in a file whose changes a running daemon applies at once, so
//! this needs no request to the daemon.

use crate::{context::Context, output};
use clap::Args;
use dvn_host::{api_token::Token as Secret, machine_dir::StateDir};
use dvn_types::Report;
use serde::Serialize;
use std::{net::SocketAddr, path::PathBuf};

/// Flags of `token`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  curl -H \"Authorization: Bearer $(darwin-vz-nix token)\" http://127.0.0.1:31180/v1/status
  darwin-vz-nix token --rotate")]
pub struct Token {
    /// Create a new token; the old one becomes invalid at once, also for a running daemon
    #[arg(long)]
    rotate: bool,
    /// Print the path of the token's file, and create nothing
    #[arg(long, conflicts_with_all = ["rotate", "json"])]
    path: bool,
    /// Print it as JSON, with its file and the API's address
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    token: String,
    path: PathBuf,
    /// From the settings.
    api_listen: Option<SocketAddr>,
}

impl Token {
    /// Prints it. Creates it if there is none.
    pub fn run(self, context: &Context) -> Result<(), Report> {
        let path = dvn_host::machine_dir::api_token(&context.state_dir());
        if self.path {
            return output::print(&format!("{}\n", path.display()));
        }
        let token = match (self.rotate, path.exists()) {
            (false, true) => Secret::read(&path)?,
            (false, false) => Secret::at(&StateDir::enter(&context.state_dir())?.api_token())?,
            (true, _) => Secret::rotate(&StateDir::enter(&context.state_dir())?.api_token())?,
        };
        let api_listen = context.config.api_listen();
        if api_listen.is_none() {
            tracing::warn!("the token is not used yet: set api-listen, such as to 127.0.0.1:31180");
        }
        match self.json {
            true => output::print_json(&Shown { token: token.as_str().to_owned(), path, api_listen }),
            false => output::print(&format!("{}\n", token.as_str())),
        }
    }
}
