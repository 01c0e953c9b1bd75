//! What the host can ask for, done.

use super::{accounts::BuildUsers, disk, figures, shares};
use darwin_vz_agent::{
    ShareMount,
    protocol::{Answer, Ask},
};
use rustix::time::{ClockId, Timespec, clock_settime};

/// What answers need to know.
pub struct Requests {
    /// Who runs builds.
    pub builders: BuildUsers,
    /// The shares that are mounted.
    pub shares: Vec<ShareMount>,
}

impl Requests {
    /// Does what is asked. [`Ask::ShutDown`] is only agreed to: the answer must be sent before.
    pub fn answer(&self, ask: &Ask) -> Result<Answer, String> {
        match ask {
            Ask::SetClock { unix_nanos } => set_clock(*unix_nanos),
            Ask::Builds => Ok(Answer::Builds { running: figures::builds(&self.builders) }),
            Ask::Figures => figures::figures(),
            Ask::Trim => disk::trim()
                .map(|bytes| Answer::Trimmed { bytes })
                .map_err(|e| format!("the data disk cannot be trimmed: {e}")),
            Ask::FreshView => shares::refresh(&self.shares).map(|()| Answer::Done),
            Ask::ShutDown => Ok(Answer::Done),
        }
    }
}

fn set_clock(unix_nanos: u64) -> Result<Answer, String> {
    let time = Timespec {
        tv_sec: i64::try_from(unix_nanos / 1_000_000_000).map_err(|e| e.to_string())?,
        tv_nsec: (unix_nanos % 1_000_000_000) as _,
    };
    clock_settime(ClockId::Realtime, time).map(|()| Answer::Done).map_err(|e| format!("the clock cannot be set: {e}"))
}
