//! References in Markdown and manual pages, each made from the very thing that it describes: `make references` writes the ones into
//! `docs/`, tests keep them fresh, and the Nix package installs the others. No part of the program that users have.
//!
//! The rule that holds here: nothing knows a setting, a route or a metric by itself.

mod commands;
mod errors;
mod exit_codes;
mod heading;
mod http;
mod man;
mod metrics;
mod settings;

use clap::Parser;
use dvn_http::router;
use dvn_types::{Kind, Report};
use std::{fs, io, path::Path, path::PathBuf, process::ExitCode};

/// Writes what is made from the program itself: its references, its manual.
#[derive(Debug, Parser)]
#[command(name = "references")]
enum Wanted {
    /// Write the pages of docs/ that are made
    Docs {
        /// The directory, which is made if need be
        dir: PathBuf,
    },
    /// Write the manual pages
    Man {
        /// The directory, which is made if need be
        dir: PathBuf,
    },
}

/// Runs the generator; its exit code.
pub fn main() -> ExitCode {
    let (dir, files) = match Wanted::parse() {
        Wanted::Docs { dir } => (dir, pages()),
        Wanted::Man { dir } => (dir, manual()),
    };
    match files.and_then(|files| write(&dir, &files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("error: {}", report.message);
            ExitCode::from(report.kind.exit_code())
        }
    }
}

/// The pages of `docs/` that are made: names of files and what is in them.
pub fn pages() -> Result<Vec<(String, String)>, Report> {
    let api = router::description();
    let openapi =
        serde_json::to_string_pretty(&api).map_err(|error| Report::new(Kind::Internal, format!("the API: {error}")))?;
    let pages = [
        ("cli.md", commands::page(dvn_cli::command())),
        ("config.md", settings::page(dvn_cli::command())),
        ("api-reference.md", http::page(&api)),
        ("openapi.json", openapi + "\n"),
        ("metrics.md", metrics::page()?),
        ("errors.md", errors::page()),
    ];
    Ok(pages.into_iter().map(|(name, text)| (name.to_owned(), text)).collect())
}

/// The manual pages, likewise.
pub fn manual() -> Result<Vec<(String, String)>, Report> {
    man::pages(dvn_cli::command()).map_err(|error| Report::new(Kind::Internal, format!("the manual: {error}")))
}

fn write(dir: &Path, files: &[(String, String)]) -> Result<(), Report> {
    let all = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        files.iter().try_for_each(|(name, text)| fs::write(dir.join(name), text))
    };
    all().map_err(|error| Report::new(Kind::Host, format!("cannot write to {}: {error}", dir.display())))
}
