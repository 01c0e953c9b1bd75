//! The command line: one file per verb. It talks to a running daemon over the API.
//!
//! Only `context` reads the environment, the home directory and the working directory, once. No other crate does.
//! `output::fail` prints an error and maps its kind to the exit code.

mod agent_call;
mod commands;
mod context;
mod devices;
mod exec_session;
mod global;
mod grammar;
mod launch;
mod logging;
mod machine_flags;
mod output;
mod pattern;
mod progress;
mod raw_terminal;
mod readiness;
mod runtime;
mod tart;
mod words;

use clap::{
    Command, CommandFactory, Error, Parser,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};
use context::Context;
use dvn_host::descriptors::Inheritance;
use dvn_types::Report;
use global::Global;
use grammar::{Cli, Verb};
use runtime::{block_on, block_on_threads};
use std::process::ExitCode;

/// The command line's definition, from which the references are made.
pub fn command() -> Command {
    Cli::command()
}

/// Runs the program. Returns its exit code.
pub fn main() -> ExitCode {
    let inheritance = Inheritance::take();
    if let Some(arguments) = tart::arguments() {
        return tart::main(arguments, Global::default());
    }
    let Cli { global, verb } = Cli::try_parse().unwrap_or_else(|error| with_tip(error).exit());
    output::colour(global.color.unwrap_or_default());
    let (json, flags) = (verb.wants_json(), verb.flags());
    let outcome = match verb {
        // Prints errors as one line, since Nix shows a remote program's stderr.
        Verb::Connect(verb) => return verb.run(global),
        Verb::Tart(verb) => return verb.run(global),
        // Its exit code depends on its findings.
        Verb::Doctor(verb) => return verb.run(global),
        Verb::Complete(verb) => {
            verb.run(global);
            return ExitCode::SUCCESS;
        }
        Verb::Capabilities(verb) => verb.run().map(success),
        Verb::Completions(verb) => verb.run(command()).map(success),
        Verb::Daemon(verb) => {
            Context::new(global, flags).and_then(|context| verb.run(&context, inheritance)).map(success)
        }
        verb => Context::new(global, flags).and_then(|context| dispatch(verb, &context)),
    };
    match outcome {
        Ok(code) => code,
        Err(report) => output::fail(&report, json),
    }
}

fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Says where the daemon is, which was `run` once.
fn with_tip(mut error: Error) -> Error {
    let of_run = error.get(ContextKind::Usage).is_some_and(|usage| usage.to_string().contains("darwin-vz-nix run "));
    if of_run && matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument) {
        let tip = StyledStr::from("the daemon in the foreground is 'darwin-vz-nix daemon'");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn dispatch(verb: Verb, context: &Context) -> Result<ExitCode, Report> {
    logging::for_a_client(context)?;
    match verb {
        // Their exit codes are those of what they do.
        Verb::Exec(verb) => return block_on_threads(verb.run(context))?,
        Verb::Delete(verb) => return block_on(verb.run(context))?,
        Verb::Create(verb) => block_on(verb.run(context))?,
        Verb::Clone(verb) => block_on(verb.run(context))?,
        Verb::List(verb) => block_on(verb.run(context))?,
        Verb::Get(verb) => block_on(verb.run(context))?,
        Verb::Set(verb) => block_on(verb.run(context))?,
        Verb::Rename(verb) => block_on(verb.run(context))?,
        Verb::Run(verb) => block_on(verb.run(context))?,
        Verb::Suspend(verb) => block_on(verb.run(context))?,
        Verb::Ip(verb) => block_on(verb.run(context))?,
        Verb::Screenshot(verb) => block_on(verb.run(context))?,
        Verb::Start(verb) => block_on(verb.run(context))?,
        Verb::Stop(verb) => block_on(verb.run(context))?,
        Verb::Pause(verb) => block_on(verb.run(context))?,
        Verb::Resume(verb) => block_on(verb.run(context))?,
        Verb::Status(verb) => block_on(verb.run(context))?,
        Verb::Logs(verb) => block_on(verb.run(context))?,
        Verb::Ssh(verb) => verb.run(context),
        Verb::NixConfig(verb) => block_on(verb.run(context))?,
        Verb::Generations(verb) => block_on(verb.run(context))?,
        Verb::Destroy(verb) => block_on(verb.run(context))?,
        Verb::Config(verb) => block_on(verb.run(context))?,
        Verb::Token(verb) => verb.run(context),
        // Handled in `main`.
        Verb::Daemon(_)
        | Verb::Tart(_)
        | Verb::Connect(_)
        | Verb::Doctor(_)
        | Verb::Capabilities(_)
        | Verb::Complete(_)
        | Verb::Completions(_) => Ok(()),
    }
    .map(success)
}
