//! The command line: one file per verb. It talks to a running daemon over the API.
//!
//! Only `context` reads the environment, the home directory and the working directory, once. No other crate does.
//! `output::fail` prints an error and maps its kind to the exit code.

mod commands;
mod context;
mod global;
mod grammar;
mod launch;
mod logging;
mod machine_flags;
mod output;
mod progress;
mod runtime;

use clap::{Command, CommandFactory, Parser};
use context::Context;
use dvn_host::descriptors::Inheritance;
use dvn_types::Report;
use grammar::{Cli, Verb};
use runtime::block_on;
use std::process::ExitCode;

/// The command line's definition, from which the references are made.
pub fn command() -> Command {
    Cli::command()
}

/// Runs the program. Returns its exit code.
pub fn main() -> ExitCode {
    let inheritance = Inheritance::take();
    let Cli { global, verb } = Cli::parse();
    output::colour(global.color.unwrap_or_default());
    let (json, flags) = (verb.wants_json(), verb.flags());
    let outcome = match verb {
        // Prints errors as one line, since Nix shows a remote program's stderr.
        Verb::Connect(verb) => return verb.run(global),
        // Its exit code depends on its findings.
        Verb::Doctor(verb) => return verb.run(global),
        Verb::Complete(verb) => {
            verb.run(global);
            return ExitCode::SUCCESS;
        }
        Verb::Capabilities(verb) => verb.run(),
        Verb::Completions(verb) => verb.run(command()),
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
        // Handled in `main`.
        Verb::Run(_)
        | Verb::Connect(_)
        | Verb::Doctor(_)
        | Verb::Capabilities(_)
        | Verb::Complete(_)
        | Verb::Completions(_) => Ok(()),
    }
}
