//! References in Markdown, each made from the very thing that it describes: `make references` writes them into `docs/`, and
//! tests keep them fresh. Nothing here knows a setting, a route or a metric by itself.

mod commands;
mod errors;
mod heading;
mod http;
mod metrics;
mod settings;

pub(super) use settings::default;

use crate::output;
use clap::{Args, Command, ValueEnum};
use dvn_http::router;
use dvn_types::Report;

/// Flags of `reference`.
#[derive(Debug, Args)]
pub struct Reference {
    /// What of
    #[arg(value_enum, default_value_t = Page::Cli)]
    page: Page,
}

/// What there are references of. The name is that of the file in `docs/`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Page {
    /// The command line
    Cli,
    /// The settings
    Config,
    /// The HTTP API, to read
    ApiReference,
    /// The HTTP API in OpenAPI, for programs
    Openapi,
    /// The metrics
    Metrics,
    /// The kinds of errors
    Errors,
}

impl Reference {
    /// Prints it.
    pub fn run(self, program: Command) -> Result<(), Report> {
        match self.page {
            Page::Cli => output::print(&commands::page(program)),
            Page::Config => output::print(&settings::page(program)),
            Page::ApiReference => output::print(&http::page(&router::description())),
            Page::Openapi => output::print_json(&router::description()),
            Page::Metrics => output::print(&metrics::page()?),
            Page::Errors => output::print(&errors::page()),
        }
    }
}
