//! A log on disk that cannot fill it: at its limit the file becomes `NAME.1`, in place of the one before, and begins anew.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Appends to a file of at most `limit` bytes, and keeps one older file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
}

impl LogFile {
    /// Opens the log to append to it.
    pub fn append(path: &Path, limit: u64) -> io::Result<LogFile> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, length, limit })
    }

    /// Begins the log anew; what was there becomes the older file.
    pub fn fresh(path: &Path, limit: u64) -> io::Result<LogFile> {
        set_aside(path)?;
        LogFile::append(path, limit)
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length > 0 && self.length + bytes.len() as u64 > self.limit {
            *self = LogFile::fresh(&self.path, self.limit)?;
        }
        let n = self.file.write(bytes)?;
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Opens a log to append to it, without a limit, for its owner alone.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The name of the older file.
pub fn older(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

fn set_aside(path: &Path) -> io::Result<()> {
    match fs::rename(path, older(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The last `count` lines that say something, control characters removed. Reads at most the last 16 KiB.
pub fn last_lines(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned();
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_grows_beyond_its_limit_and_keeps_one_older_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log");
        let mut log = LogFile::append(&path, 10).unwrap();
        for line in ["aaaa\n", "bbbb\n", "cccc\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "cccc\n");
        assert_eq!(fs::read_to_string(older(&path)).unwrap(), "aaaa\nbbbb\n");
        drop(LogFile::fresh(&path, 10).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert_eq!(fs::read_to_string(older(&path)).unwrap(), "cccc\n");
    }

    #[test]
    fn last_lines_are_clean_and_few() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log");
        fs::write(&path, "one\r\n\x1b[0mtwo\r\n\r\n  three\n").unwrap();
        assert_eq!(last_lines(&path, 2).unwrap(), ["[0mtwo", "three"]);
        assert_eq!(last_lines(&path, 9).unwrap().len(), 3);
    }
}
