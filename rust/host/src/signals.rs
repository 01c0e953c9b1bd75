//! How the daemon handles signals: those with which a terminal, a session or a service manager ends a program stop it
//! as `stop --daemon` does; all others have no effect.
//!
//! Rule: no signal that can be caught ends the daemon before its guests are off. The exceptions are the signals that
//! the system sends to a broken program, which cannot continue.

use dvn_types::{Kind, Report};
use rustix::process::Signal as Number;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The highest signal number on Linux. Other systems have fewer, and fail to catch the rest.
const HIGHEST: i32 = 64;

/// Signals that the system sends to a broken program.
const BROKEN: [Number; 4] = [Number::ILL, Number::FPE, Number::SEGV, Number::BUS];

/// With a handler, a write to the terminal would be repeated for ever. `cli` ignores them.
const OF_TERMINALS: [Number; 2] = [Number::TTIN, Number::TTOU];

/// The signals that stop the daemon.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Installs the handlers. A hangup stops the daemon only if `hangs_up` is set.
    pub fn watch(hangs_up: bool) -> Result<StopSignals, Report> {
        let cannot = |e: io::Error| Report::new(Kind::Internal, format!("cannot wait for signals: {e}"));
        let left_alone = BROKEN.into_iter().chain(OF_TERMINALS).map(Number::as_raw).collect::<Vec<_>>();
        for number in (1..=HIGHEST).filter(|number| !left_alone.contains(number)) {
            // A handler stays after its receiver is dropped. This fails for signals that cannot be caught.
            drop(signal(SignalKind::from_raw(number)));
        }
        Ok(StopSignals {
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
