//! Writes a guest's console output to a log, for all backends.

use dvn_host::log_file::LogFile;
use std::{io, io::Write, path::Path};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::task::AbortOnDropHandle;

/// Size limit of a console log in bytes, for the current file and again for the rotated one.
const LIMIT: u64 = 4 << 20;

/// Creates a new log for [`keep`].
pub fn log(path: &Path) -> io::Result<LogFile> {
    LogFile::fresh(path, LIMIT)
}

/// Copies `from` a console to the log until the console closes.
pub fn keep(mut from: impl AsyncRead + Send + Unpin + 'static, mut log: LogFile) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if log.write_all(&buffer[..n]).is_err() {
                // A full disk must not stop the guest: continue to read, and discard the output.
                continue;
            }
        }
    }))
}
