//! What signals do to the daemon: those with which a terminal, a session or a service manager ends a program stop it as `stop
//! --daemon` does, and all others do nothing.
//!
//! The rule that holds here: no signal that can be caught ends the daemon before its guests are off. Left out are those by
//! which the system ends a program that is broken, because there is nothing to go on with.

use dvn_types::{Kind, Report};
use rustix::process::Signal as Number;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The highest number on Linux; other systems have fewer, and what they have not cannot be caught either.
const HIGHEST: i32 = 64;

/// How the system ends a program that is broken.
const BROKEN: [Number; 4] = [Number::ILL, Number::FPE, Number::SEGV, Number::BUS];

/// Given a handler they would have a write to the terminal repeated for ever. `cli` has them ignored.
const OF_TERMINALS: [Number; 2] = [Number::TTIN, Number::TTOU];

/// Signals that ask for the end.
pub struct Ends {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Option<Signal>,
}

impl Ends {
    /// From now on signals have their meaning. A hangup ends the daemon only if it `hangs_up`.
    pub fn heed(hangs_up: bool) -> Result<Ends, Report> {
        let cannot = |e: io::Error| Report::new(Kind::Internal, format!("cannot wait for signals: {e}"));
        let left_alone = BROKEN.into_iter().chain(OF_TERMINALS).map(Number::as_raw).collect::<Vec<_>>();
        for number in (1..=HIGHEST).filter(|number| !left_alone.contains(number)) {
            // A handler stays when its receiver is dropped. Fails for those that nothing can catch.
            drop(signal(SignalKind::from_raw(number)));
        }
        Ok(Ends {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
            quit: signal(SignalKind::quit()).map_err(cannot)?,
            hangup: if hangs_up { Some(signal(SignalKind::hangup()).map_err(cannot)?) } else { None },
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
            () = hangup => {}
        }
    }
}
