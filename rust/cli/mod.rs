//! The command line: one file per verb. What it wants of a running daemon it asks over the API.
//!
//! This is the only place that reads the environment, the home directory and the working directory; `context` does, once.
//! An error ends in `output::fail`, which prints it and turns its kind into the exit code.

mod args;
mod boots;
mod capabilities;
mod complete;
mod completions;
mod config;
mod connect;
mod context;
mod destroy;
mod doctor;
mod generations;
mod inheritance;
mod launch;
mod logging;
mod logs;
mod man;
mod nix_config;
#[cfg(test)]
mod nix_module_tests;
mod output;
mod pause;
mod progress;
mod reference;
mod run;
mod ssh;
mod start;
mod status;
mod stop;
mod token;

use crate::error::{Kind, Report};
use args::{Cli, Verb};
use clap::Parser;
use context::Context;
use inheritance::Inheritance;
use std::{process::ExitCode, time::Duration};

/// How long what is still read or written may take once all else is done.
const LAST_READS: Duration = Duration::from_secs(2);

/// Runs the program; its exit code.
pub fn main() -> ExitCode {
    let inheritance = Inheritance::take();
    let Cli { global, verb } = Cli::parse();
    output::colour(global.color.unwrap_or_default());
    let (json, flags) = (verb.wants_json(), verb.flags());
    let outcome = match verb {
        // A line for Nix to show: it prints what a remote program says on stderr.
        Verb::Connect(verb) => return verb.run(global),
        // Its exit code is what it found.
        Verb::Doctor(verb) => return verb.run(global),
        Verb::Complete(verb) => {
            verb.run(global);
            return ExitCode::SUCCESS;
        }
        Verb::Capabilities(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(),
        Verb::Man(verb) => verb.run(),
        Verb::Reference(verb) => verb.run(),
        Verb::Run(verb) => Context::new(global, flags).and_then(|context| verb.run(&context, inheritance)),
        verb => Context::new(global, flags).and_then(|context| dispatch(verb, &context)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => output::fail(&report, json),
    }
}

fn dispatch(verb: Verb, context: &Context) -> Result<(), Report> {
    logging::for_a_client(context)?;
    match verb {
        Verb::Start(verb) => block_on(verb.run(context))?,
        Verb::Stop(verb) => block_on(verb.run(context))?,
        Verb::Pause(verb) => block_on(verb.run(context))?,
        Verb::Resume(verb) => block_on(verb.run(context))?,
        Verb::Status(verb) => block_on(verb.run(context))?,
        Verb::Ssh(verb) => verb.run(context),
        Verb::Logs(verb) => block_on(verb.run(context))?,
        Verb::Generations(verb) => block_on(verb.run(context))?,
        Verb::Destroy(verb) => block_on(verb.run(context))?,
        Verb::NixConfig(verb) => block_on(verb.run(context))?,
        Verb::Config(verb) => block_on(verb.run(context))?,
        Verb::Token(verb) => verb.run(context),
        // Done before.
        Verb::Run(_)
        | Verb::Connect(_)
        | Verb::Doctor(_)
        | Verb::Capabilities(_)
        | Verb::Complete(_)
        | Verb::Completions(_)
        | Verb::Man(_)
        | Verb::Reference(_) => Ok(()),
    }
}

/// One thread is enough to ask and wait, and is there at once.
fn block_on<F: Future>(future: F) -> Result<F::Output, Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Report::new(Kind::Host, format!("no event loop can be made: {error}")))?;
    let output = runtime.block_on(future);
    // A file on a volume that hangs must not keep a process that is done: the read ends with the process.
    runtime.shutdown_timeout(LAST_READS);
    Ok(output)
}
