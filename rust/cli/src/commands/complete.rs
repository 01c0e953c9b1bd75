//! `complete`: prints names of machines or generations, one a line, for the scripts of `completions`. It prints no
//! errors, which would disturb the shell's completion: without names it prints nothing.

use crate::{context::Context, global::Global, output, runtime::block_on};
use clap::{Args, ValueEnum};
use dvn_types::{Kind, Report};
use std::{collections::BTreeSet, time::Duration};

/// Time limit for the daemon's answer, since the user waits after pressing Tab.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Flags of `complete`.
#[derive(Debug, Args)]
pub struct Complete {
    /// The kind of names
    what: What,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Machines,
    Generations,
}

impl Complete {
    /// Prints them.
    pub fn run(self, global: Global) {
        let _ = self.names(global).and_then(|names| output::print(&names));
    }

    fn names(&self, global: Global) -> Result<String, Report> {
        let context = Context::new(global, Vec::new())?;
        match self.what {
            What::Machines => block_on(async {
                let client = context.client();
                let list = tokio::time::timeout(TIMEOUT, client.machines(false)).await;
                // Without a daemon, those of the configuration.
                let list = list.ok().and_then(Result::ok).map(|list| list.machines).unwrap_or_default();
                let names = list.into_iter().map(|vm| vm.name).chain(context.config.names().cloned());
                let names: BTreeSet<String> = names.map(|name| format!("{name}\n")).collect();
                Ok(names.into_iter().collect())
            })?,
            What::Generations => block_on(async {
                let (client, machine) = (context.client(), context.machine()?);
                let list = tokio::time::timeout(TIMEOUT, client.generations(&machine)).await;
                let list = list.unwrap_or_else(|_| Err(Report::new(Kind::NotRunning, "the daemon does not answer")))?;
                Ok(list.generations.iter().map(|generation| format!("{}\n", generation.number)).collect())
            })?,
        }
    }
}
