//! The user's terminal while a command runs on a terminal of the guest: every key goes there, also Ctrl-C.

use dvn_protocol::service::TtySize;
use dvn_types::{Kind, Report};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal, stderr, stdin, stdout};

/// The size that is assumed without a terminal.
const USUAL: TtySize = TtySize { rows: 24, cols: 80 };

/// Raw mode, until it is dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Sets stdin to raw mode; `None` if it is no terminal.
    pub fn enter() -> Result<Option<RawTerminal>, Report> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |error: rustix::io::Errno| {
            Report::new(Kind::Host, format!("cannot set the terminal to raw mode: {}", io::Error::from(error)))
                .hint("leave -t out")
        };
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(RawTerminal { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// The size of the user's terminal.
pub fn size() -> TtySize {
    let found = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin())).or_else(|_| tcgetwinsize(stderr()));
    match found {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TtySize { rows: size.ws_row, cols: size.ws_col },
        _ => USUAL,
    }
}
