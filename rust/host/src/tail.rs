//! A log file as a stream of bytes: all of it or its last lines and, on request, what is appended later.
//!
//! Following polls the file four times a second, and only while a client follows. It handles truncation (it continues
//! at the start) and rotation (it reads the old file to its end, then the new one from its start).

use crate::{blocking, regular_file};
use futures_util::{Stream, stream};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

const CHUNK: usize = 64 * 1024;
const PERIOD: Duration = Duration::from_millis(250);

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the start of the file.
    Whole,
    /// This many lines before its end.
    Lines(usize),
}

/// Streams a file. A missing file is empty; with `follow` the stream waits for it to appear.
pub fn tail(path: PathBuf, start: Start, follow: bool) -> impl Stream<Item = io::Result<Vec<u8>>> + Send {
    let tail = Tail { path, start, follow, file: None };
    stream::try_unfold(tail, |mut tail| async move { Ok(tail.next().await?.map(|chunk| (chunk, tail))) })
}

struct Tail {
    path: PathBuf,
    start: Start,
    follow: bool,
    file: Option<File>,
}

impl Tail {
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(chunk) = blocking(|| self.read())? {
                return Ok(Some(chunk));
            }
            if !self.follow {
                return Ok(None);
            }
            if !blocking(|| self.turn_over())? {
                tokio::time::sleep(PERIOD).await;
            }
        }
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.file.is_none() {
            self.file = match regular_file::open(&self.path) {
                Ok(mut file) => {
                    if let Start::Lines(lines) = self.start {
                        seek_to_last_lines(&mut file, lines)?;
                    }
                    Some(file)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            // A later file is new, and is streamed from its start.
            self.start = Start::Whole;
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        let mut chunk = vec![0; CHUNK];
        let length = file.read(&mut chunk)?;
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    /// At the end of the file: whether the path has another file now, or the file was truncated.
    fn turn_over(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let held = file.metadata()?;
        if held.len() < file.stream_position()? {
            file.seek(SeekFrom::Start(0))?;
            return Ok(true);
        }
        let Ok(named) = std::fs::metadata(&self.path) else { return Ok(false) };
        if (named.dev(), named.ino()) == (held.dev(), held.ino()) || held.len() > file.stream_position()? {
            // Unchanged, or written to since the last read, which comes first.
            return Ok(held.len() > file.stream_position()?);
        }
        self.file = None;
        Ok(true)
    }
}

/// Seeks to where the last `lines` lines begin. A newline at the very end does not begin a line.
fn seek_to_last_lines(file: &mut File, lines: usize) -> io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut position = end;
    let mut wanted = lines;
    let mut block = vec![0; CHUNK];
    while lines > 0 && position > 0 {
        let from = position.saturating_sub(CHUNK as u64);
        let length = usize::try_from(position - from).unwrap_or(CHUNK);
        let part = &mut block[..length];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(part)?;
        for (index, byte) in part.iter().enumerate().rev() {
            let at = from + index as u64;
            if *byte == b'\n' && at + 1 < end {
                wanted -= 1;
                if wanted == 0 {
                    file.seek(SeekFrom::Start(at + 1))?;
                    return Ok(());
                }
            }
        }
        position = from;
    }
    file.seek(SeekFrom::Start(if lines == 0 { end } else { 0 }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use std::{fs, io::Write, pin::pin};

    async fn whole(path: &std::path::Path, start: Start) -> String {
        let mut stream = pin!(tail(path.to_owned(), start, false));
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend(chunk.unwrap());
        }
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(whole(&path, Start::Whole).await, "", "a file that is not there is empty");
        for (text, lines, expected) in [
            ("a\nb\nc\n", 0, ""),
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("\n\n", 1, "\n"),
            ("", 3, ""),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(whole(&path, Start::Lines(lines)).await, expected, "{text:?} {lines}");
        }
        // Lines across the blocks in which the file is searched.
        let long: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, &long).unwrap();
        assert_eq!(whole(&path, Start::Whole).await, long);
        let last = whole(&path, Start::Lines(30_000)).await;
        assert!(last.starts_with("line 10000\n") && last.ends_with("line 39999\n"));
    }

    #[tokio::test]
    async fn following_survives_truncation_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut stream = pin!(tail(path.clone(), Start::Lines(1), true));
        assert!(futures_util::poll!(stream.next()).is_pending(), "it waits for the file");
        fs::write(&path, "1\n2\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), b"1\n2\n", "a file that came later is new as a whole");

        fs::write(&path, "3\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), b"3\n", "truncated");

        let mut old = fs::OpenOptions::new().append(true).open(&path).unwrap();
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        old.write_all(b"4\n").unwrap();
        fs::write(&path, "5\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), b"4\n", "the old file's rest");
        assert_eq!(stream.next().await.unwrap().unwrap(), b"5\n", "then the new file");
    }

    #[tokio::test]
    async fn what_is_no_regular_file_ends_at_once_followed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for kind in crate::wrong_files::KINDS {
            crate::wrong_files::make(kind, &path);
            for follow in [false, true] {
                let mut stream = pin!(tail(path.clone(), Start::Lines(3), follow));
                let error = stream.next().await.unwrap().unwrap_err();
                assert!(regular_file::NotRegular::behind(&error).is_some(), "{kind}: {error}");
            }
        }
    }
}
