//! `token`: what the API asks for on TCP. The file is the token: a daemon that runs goes by it at once, so there is nothing to
//! ask it for.

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
    /// Make a new one; the old one is void at once, also for a daemon that runs
    #[arg(long)]
    rotate: bool,
    /// Print where it is, and make nothing
    #[arg(long, conflicts_with_all = ["rotate", "json"])]
    path: bool,
    /// Print it as JSON, with its file and where the API answers
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    token: String,
    path: PathBuf,
    /// As the settings have it.
    api_listen: Option<SocketAddr>,
}

impl Token {
    /// Prints it; makes it if there is none.
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
            tracing::warn!("nothing asks for the token yet: set api-listen, such as to 127.0.0.1:31180");
        }
        match self.json {
            true => output::print_json(&Shown { token: token.as_str().to_owned(), path, api_listen }),
            false => output::print(&format!("{}\n", token.as_str())),
        }
    }
}
