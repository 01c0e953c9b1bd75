//! Keeps what a guest prints on its console, whichever backend brings it.

use dvn_host::log_file::LogFile;
use std::{io, io::Write, path::Path};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::task::AbortOnDropHandle;

/// A console log's limit in bytes, once for the log and once for the older part.
const LIMIT: u64 = 4 << 20;

/// Makes the log anew; [`keep`] fills it.
pub fn log(path: &Path) -> io::Result<LogFile> {
    LogFile::fresh(path, LIMIT)
}

/// Writes all that comes `from` a console until it ends.
pub fn keep(mut from: impl AsyncRead + Send + Unpin + 'static, mut log: LogFile) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if log.write_all(&buffer[..n]).is_err() {
                // A full disk must not stop the guest: go on reading, and lose the console.
                continue;
            }
        }
    }))
}
