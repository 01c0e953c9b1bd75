//! Generates references in Markdown and manual pages from the definitions in the code: `make references` writes the
//! references into `docs/`, tests check that they are up to date, and the Nix package installs the manual pages. Not
//! part of the installed program.
//!
//! The rule: no setting, route or metric is listed here by hand.

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

/// Generates the program's references and manual pages
#[derive(Debug, Parser)]
#[command(name = "references")]
enum Wanted {
    /// Write the generated pages of docs/
    Docs {
        /// The directory; created if missing
        dir: PathBuf,
    },
    /// Write the manual pages
    Man {
        /// The directory; created if missing
        dir: PathBuf,
    },
}

/// Runs the generator. Returns its exit code.
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

/// The generated pages of `docs/`: file names and contents.
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

/// The manual pages: file names and contents.
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
