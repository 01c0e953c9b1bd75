//! A log on disk of limited size: at its limit the file is renamed to `NAME.1`, replacing the previous one, and a new
//! file begins.
//!
//! Anything other than a regular file at the log's path is moved aside: a log that cannot be written must not keep a
//! guest from booting.
//!
//! A guest's output is stored unchanged. Code that shows it to a person removes what a terminal would act on.

use crate::{files::move_aside, regular_file};
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    mem,
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
    /// Opens the log for appending.
    pub fn append(path: &Path, limit: u64) -> io::Result<LogFile> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, length, limit })
    }

    /// Starts a new log; the present file becomes the older one.
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

/// Opens a log for appending, without a limit, accessible to its owner only.
pub fn open(path: &Path) -> io::Result<File> {
    move_aside_unless_regular(path)?;
    regular_file::open_as(path, OpenOptions::new().append(true).create(true).mode(0o600))
}

/// Logs nothing: the log may be this very file.
fn move_aside_unless_regular(path: &Path) -> io::Result<()> {
    match regular_file::look(path) {
        Err(error) if regular_file::NotRegular::behind(&error).is_some() => move_aside(path).map(drop),
        _ => Ok(()),
    }
}

/// The name of the older file.
pub fn older(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

fn set_aside(path: &Path) -> io::Result<()> {
    move_aside_unless_regular(path)?;
    move_aside_unless_regular(&older(path))?;
    match fs::rename(path, older(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The last `count` lines that are not blank, without control characters. Reads at most the last 16 KiB.
pub fn last_lines(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut file = regular_file::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let lines = lines(&bytes);
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

/// The lines that are not blank, without control characters.
pub fn lines(log: &[u8]) -> Vec<String> {
    let clean = |line: &str| line.chars().filter(only_shows).collect::<String>().trim().to_owned();
    String::from_utf8_lossy(log).lines().map(clean).filter(|line| !line.is_empty()).collect()
}

/// Whether a terminal only displays the character. Others begin escape sequences, which set the window's title or the
/// clipboard, or overwrite earlier output.
fn only_shows(c: &char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t')
}

/// Makes a log safe for a terminal, chunk by chunk.
#[derive(Debug, Default)]
pub struct ForTerminal {
    /// The beginning of a character that ends in the next chunk.
    begun: Vec<u8>,
}

impl ForTerminal {
    /// The chunk as text, without control characters except line ends and tabs.
    pub fn clean(&mut self, piece: &[u8]) -> String {
        self.begun.extend_from_slice(piece);
        let bytes = mem::take(&mut self.begun);
        let mut text = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.extend(chunk.valid().chars().filter(only_shows));
            let broken = chunk.invalid();
            // Without an error length the bytes may still become a character.
            if chunks.peek().is_none() && str::from_utf8(broken).is_err_and(|e| e.error_len().is_none()) {
                broken.clone_into(&mut self.begun);
            } else if !broken.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }
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

    #[test]
    fn a_terminal_is_given_nothing_to_act_upon() {
        let log = "päth\t\x1b]52;c;aGk=\x07\x1b[2J€\u{9b}31m\rX\x7f\x08\0 ok\r\n";
        let shown = "päth\t]52;c;aGk=[2J€31mX ok\n";
        for size in 1..=log.len() {
            let mut terminal = ForTerminal::default();
            let text: String = log.as_bytes().chunks(size).map(|piece| terminal.clean(piece)).collect();
            assert_eq!(text, shown, "in pieces of {size}");
        }
        let text = ForTerminal::default().clean(b"\x9b31m \xff\xe2\x82 \xe2");
        assert_eq!(text, "\u{fffd}31m \u{fffd}\u{fffd} ");
    }
}
