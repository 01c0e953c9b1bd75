//! Frames: what host and agent send each other while a command runs.
//!
//! A frame is `kind: u8`, `length: u32` (little endian), and `length` bytes of data, at most [`MAX_DATA`].
//!
//! | kind | from | frame | data |
//! |---|---|---|---|
//! | 0 | host | [`Frame::Stdin`] | bytes; none: end of input |
//! | 1 | guest | [`Frame::Stdout`] | bytes |
//! | 2 | guest | [`Frame::Stderr`] | bytes |
//! | 3 | host | [`Frame::Resize`] | rows: u16, columns: u16, little endian |
//! | 4 | host | [`Frame::Signal`] | number: u8 |
//! | 5 | guest | [`Frame::Exit`] | code: i32, little endian |
//! | 6 | guest | [`Frame::Killed`] | number: u8 |

use serde::{Deserialize, Serialize};
use std::{error::Error, fmt};

/// Most data in a frame, in bytes.
pub const MAX_DATA: usize = 64 * 1024;

/// Bytes before a frame's data.
pub const HEADER: usize = 5;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 3;
const SIGNAL: u8 = 4;
const EXIT: u8 = 5;
const KILLED: u8 = 6;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A frame, with the data in a buffer of the reader or writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Input of the command. Empty: the end of input; on a terminal the agent types its end-of-file character.
    Stdin(&'a [u8]),
    /// Output of the command; on a terminal all of it.
    Stdout(&'a [u8]),
    /// Error output of the command.
    Stderr(&'a [u8]),
    /// The terminal has this size now. Ignored without a terminal.
    Resize(TtySize),
    /// Send this signal to the command's process group. Numbers as in the guest's kernel; others are ignored.
    Signal(u8),
    /// The command ended with this code. The last frame.
    Exit(i32),
    /// This signal ended the command. The last frame.
    Killed(u8),
}

impl Frame<'_> {
    /// Appends the frame's bytes. Data beyond [`MAX_DATA`] goes into further frames of the same kind.
    pub fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Frame::Stdin(data) => pieces(STDIN, data, into),
            Frame::Stdout(data) => pieces(STDOUT, data, into),
            Frame::Stderr(data) => pieces(STDERR, data, into),
            Frame::Resize(TtySize { rows, cols }) => {
                let ([a, b], [c, d]) = (rows.to_le_bytes(), cols.to_le_bytes());
                piece(RESIZE, &[a, b, c, d], into);
            }
            Frame::Signal(number) => piece(SIGNAL, &[*number], into),
            Frame::Exit(code) => piece(EXIT, &code.to_le_bytes(), into),
            Frame::Killed(number) => piece(KILLED, &[*number], into),
        }
    }

    /// The frame's bytes, as by [`Frame::encode`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }
}

fn pieces(kind: u8, data: &[u8], into: &mut Vec<u8>) {
    let (first, rest) = data.split_at(data.len().min(MAX_DATA));
    piece(kind, first, into);
    for more in rest.chunks(MAX_DATA) {
        piece(kind, more, into);
    }
}

fn piece(kind: u8, data: &[u8], into: &mut Vec<u8>) {
    into.push(kind);
    // Never longer than MAX_DATA.
    into.extend_from_slice(&(data.len() as u32).to_le_bytes());
    into.extend_from_slice(data);
}

/// Why bytes are not a frame. The connection is unusable then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// There is no such kind.
    Kind(u8),
    /// A frame of this kind does not have this length.
    Length {
        /// The kind.
        kind: u8,
        /// The length of the data, in bytes.
        length: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Kind(kind) => write!(f, "there are no frames of kind {kind}"),
            FrameError::Length { kind, length } => write!(f, "a frame of kind {kind} has no length of {length} bytes"),
        }
    }
}

impl Error for FrameError {}

/// The length of the data of the frame that begins with this header, or why there is no such frame.
fn length(kind: u8, length: [u8; 4]) -> Result<usize, FrameError> {
    let number = u32::from_le_bytes(length);
    let valid = match kind {
        STDIN | STDOUT | STDERR => number as usize <= MAX_DATA,
        RESIZE | EXIT => number == 4,
        SIGNAL | KILLED => number == 1,
        _ => return Err(FrameError::Kind(kind)),
    };
    if valid { Ok(number as usize) } else { Err(FrameError::Length { kind, length: number }) }
}

/// Reads frames from bytes that arrive in pieces of any size.
///
/// It keeps what [`Decoder::push`] gives it until [`Decoder::next_frame`] has returned it. A caller that takes all
/// frames before it pushes again, pieces of at most N bytes, makes it hold less than `HEADER + MAX_DATA + N` bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that belong to frames already returned.
    taken: usize,
}

impl Decoder {
    /// A decoder that has seen no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` if more bytes are needed. After an error every call returns that error.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let [kind, a, b, c, d, rest @ ..] = &self.buffer[self.taken..] else { return Ok(None) };
        let kind = *kind;
        let length = length(kind, [*a, *b, *c, *d])?;
        let Some(data) = rest.get(..length) else { return Ok(None) };
        self.taken += HEADER + length;
        Ok(match (kind, data) {
            (STDIN, data) => Some(Frame::Stdin(data)),
            (STDOUT, data) => Some(Frame::Stdout(data)),
            (STDERR, data) => Some(Frame::Stderr(data)),
            (RESIZE, [a, b, c, d]) => {
                Some(Frame::Resize(TtySize { rows: u16::from_le_bytes([*a, *b]), cols: u16::from_le_bytes([*c, *d]) }))
            }
            (SIGNAL, [number]) => Some(Frame::Signal(*number)),
            (EXIT, [a, b, c, d]) => Some(Frame::Exit(i32::from_le_bytes([*a, *b, *c, *d]))),
            (KILLED, [number]) => Some(Frame::Killed(*number)),
            // The length was checked.
            _ => None,
        })
    }

    /// Whether bytes of an unfinished frame, or frames not yet taken, are left: an end of the stream now cuts them off.
    pub fn has_rest(&self) -> bool {
        self.taken < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// A frame that owns its data.
    #[derive(Clone, Debug)]
    enum Owned {
        Data(u8, Vec<u8>),
        Resize(u16, u16),
        Signal(u8),
        Exit(i32),
        Killed(u8),
    }

    impl Owned {
        fn frame(&self) -> Frame<'_> {
            match self {
                Owned::Data(STDIN, data) => Frame::Stdin(data),
                Owned::Data(STDOUT, data) => Frame::Stdout(data),
                Owned::Data(_, data) => Frame::Stderr(data),
                Owned::Resize(rows, cols) => Frame::Resize(TtySize { rows: *rows, cols: *cols }),
                Owned::Signal(number) => Frame::Signal(*number),
                Owned::Exit(code) => Frame::Exit(*code),
                Owned::Killed(number) => Frame::Killed(*number),
            }
        }
    }

    fn owned() -> impl Strategy<Value = Owned> {
        prop_oneof![
            (0..3u8, vec(any::<u8>(), 0..300)).prop_map(|(kind, data)| Owned::Data(kind, data)),
            any::<(u16, u16)>().prop_map(|(rows, cols)| Owned::Resize(rows, cols)),
            any::<u8>().prop_map(Owned::Signal),
            any::<i32>().prop_map(Owned::Exit),
            any::<u8>().prop_map(Owned::Killed),
        ]
    }

    #[test]
    fn frames_look_as_documented() {
        for (frame, bytes) in [
            (Frame::Stdin(b""), &[0, 0, 0, 0, 0][..]),
            (Frame::Stdout(b"hi"), &[1, 2, 0, 0, 0, b'h', b'i']),
            (Frame::Stderr(b"!"), &[2, 1, 0, 0, 0, b'!']),
            (Frame::Resize(TtySize { rows: 24, cols: 300 }), &[3, 4, 0, 0, 0, 24, 0, 44, 1]),
            (Frame::Signal(15), &[4, 1, 0, 0, 0, 15]),
            (Frame::Exit(-2), &[5, 4, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]),
            (Frame::Killed(9), &[6, 1, 0, 0, 0, 9]),
        ] {
            assert_eq!(frame.to_bytes(), bytes);
        }
    }

    #[test]
    fn long_data_is_split_at_the_limit_and_longer_frames_are_refused() {
        let data = vec![7; 2 * MAX_DATA + 1];
        let mut decoder = Decoder::new();
        decoder.push(&Frame::Stdout(&data).to_bytes());
        for expected in [MAX_DATA, MAX_DATA, 1] {
            assert_eq!(decoder.next_frame(), Ok(Some(Frame::Stdout(&data[..expected]))));
        }
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(!decoder.has_rest());

        let mut header = vec![STDOUT];
        header.extend_from_slice(&(MAX_DATA as u32 + 1).to_le_bytes());
        decoder.push(&header);
        let refused = Err(FrameError::Length { kind: STDOUT, length: MAX_DATA as u32 + 1 });
        assert_eq!(decoder.next_frame(), refused, "before its data arrive");
        decoder.push(b"more");
        assert_eq!(decoder.next_frame(), refused, "and ever after");
    }

    #[test]
    fn a_kind_or_length_that_does_not_exist_is_an_error() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::new();
            decoder.push(bytes);
            decoder.next_frame().unwrap_err().to_string()
        };
        assert_eq!(refused(&[7, 0, 0, 0, 0]), "there are no frames of kind 7");
        assert_eq!(refused(&[EXIT, 3, 0, 0, 0]), "a frame of kind 5 has no length of 3 bytes");
        assert_eq!(refused(&[SIGNAL, 0, 0, 0, 0]), "a frame of kind 4 has no length of 0 bytes");
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire_in_any_pieces(frames in vec(owned(), 0..8), size in 1..64usize) {
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.frame().encode(&mut bytes));
            let mut decoder = Decoder::new();
            let mut expected = frames.iter();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    prop_assert_eq!(Some(frame), expected.next().map(Owned::frame));
                }
            }
            prop_assert!(expected.next().is_none() && !decoder.has_rest());
        }

        #[test]
        fn no_bytes_panic_and_the_buffer_stays_small(bytes: Vec<u8>, size in 1..64usize) {
            let mut decoder = Decoder::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                prop_assert!(decoder.buffer.len() < HEADER + MAX_DATA + size);
                while let Ok(Some(_)) = decoder.next_frame() {}
                if decoder.next_frame().is_err() {
                    return Ok(());
                }
            }
        }
    }
}
