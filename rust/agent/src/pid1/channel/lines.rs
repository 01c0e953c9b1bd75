//! Splits a byte stream into lines of limited length. A longer line is skipped as a whole.

use std::io::{self, Read};

/// A line without its newline.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A complete line.
    Whole(Vec<u8>),
    /// The line exceeded the limit.
    TooLong,
}

/// The lines of a stream.
pub struct Lines<R> {
    from: R,
    /// Longest accepted line in bytes, newline included.
    longest: usize,
    buffer: Vec<u8>,
    /// Bytes of `buffer` already searched for a newline.
    searched: usize,
    /// The rest of a line that is too long is being skipped.
    skipping: bool,
}

impl<R: Read> Lines<R> {
    /// Reads from here.
    pub fn new(from: R, longest: usize) -> Self {
        Lines { from, longest, buffer: Vec::new(), searched: 0, skipping: false }
    }

    /// The next line; `None` at the end. Bytes after the last newline are dropped.
    pub fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
                self.searched = 0;
                let skipped = std::mem::take(&mut self.skipping) || line.len() > self.longest;
                return Ok(Some(if skipped { Line::TooLong } else { Line::Whole(line[..line.len() - 1].to_vec()) }));
            }
            self.searched = self.buffer.len();
            if self.skipping || self.buffer.len() >= self.longest {
                self.skipping = true;
                self.buffer.clear();
                self.searched = 0;
            }
            let mut more = [0; 4096];
            match self.from.read(&mut more) {
                Ok(0) => return Ok(None),
                Ok(n) => self.buffer.extend_from_slice(&more[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns its bytes in pieces of the given sizes.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.pop().unwrap_or(1).clamp(1, into.len()).min(self.0.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn all(bytes: &[u8], pieces: Vec<usize>, longest: usize) -> Vec<Line> {
        let mut lines = Lines::new(Pieces(bytes, pieces), longest);
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn the_newline_counts() {
        let lines = all(b"123\n1234\n\nrest", vec![], 4);
        assert_eq!(lines, [Line::Whole(b"123".to_vec()), Line::TooLong, Line::Whole(vec![])]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_arrive(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            pieces in prop::collection::vec(1usize..50, 0..100),
            longest in 1usize..40,
        ) {
            let mut expected: Vec<_> = bytes.split(|byte| *byte == b'\n').map(|line| {
                if line.len() < longest { Line::Whole(line.to_vec()) } else { Line::TooLong }
            }).collect();
            expected.pop(); // the bytes after the last newline
            prop_assert_eq!(all(&bytes, pieces, longest), expected);
        }
    }
}
