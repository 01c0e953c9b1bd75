//! A file of lines that is only appended to, or replaced as a whole. Appended lines survive a crash of this program.
//! After a crash of the computer the lines up to the last sync survive; an unfinished last line is cut off.

use dvn_host::{
    files::{state_error, write_atomic},
    regular_file,
};
use dvn_types::Report;
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The file, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl Journal {
    /// Opens the file and reads its lines. A missing file has none.
    pub fn open(path: &Path) -> Result<(Journal, Vec<String>), Report> {
        let bytes = match regular_file::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(state_error(path, "cannot read", &e)),
        };
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let lines = String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect();
        let mut journal = Journal { path: path.to_owned(), file: None, length: bytes.len() as u64 };
        if whole < bytes.len() {
            journal.replace(&bytes[..whole])?;
        }
        Ok((journal, lines))
    }

    /// Appends text that consists of whole lines: all of it or nothing.
    pub fn append(&mut self, text: &str) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let how = &mut File::options();
                none.insert(regular_file::open_as(&self.path, how.append(true).create(true).mode(0o600))?)
            }
        };
        if let Err(e) = file.write_all(text.as_bytes()) {
            // Part of the text may be in the file; the next line must not begin in its middle.
            file.set_len(self.length)?;
            return Err(e);
        }
        self.length += text.len() as u64;
        Ok(())
    }

    /// Replaces the file.
    pub fn replace(&mut self, contents: &[u8]) -> Result<(), Report> {
        write_atomic(&self.path, contents, 0o600)?;
        self.file = None;
        self.length = contents.len() as u64;
        Ok(())
    }

    /// Another handle of the file, if anything was appended, for [`File::sync_data`], which is slow.
    pub fn handle(&self) -> Option<File> {
        self.file.as_ref()?.try_clone().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_are_kept_and_an_unfinished_one_is_cut_off() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("j");
        let (mut journal, lines) = Journal::open(&path).unwrap();
        assert!(lines.is_empty() && !path.exists());
        journal.append("a\nb\n").unwrap();
        journal.append("c\n").unwrap();
        fs::write(&path, "a\nb\nc\nhal").unwrap();
        let (mut journal, lines) = Journal::open(&path).unwrap();
        assert_eq!(lines, ["a", "b", "c"]);
        journal.append("d\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\nc\nd\n");
        journal.replace(b"e\n").unwrap();
        journal.append("f\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "e\nf\n");
    }
}
