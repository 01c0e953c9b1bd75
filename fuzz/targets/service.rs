//! The service protocol, in both directions. The first byte selects the kind of the rest: a line, or frames, which
//! arrive in pieces whose sizes the bytes themselves encode.
//!
//! * A parsed request or answer is unchanged after it is written and parsed again, and is one line.
//! * Frames do not depend on how their bytes arrive; no more data is waited for than a frame may have.
//! * The frames that were read, written again, are the bytes that were read.
//! * An error repeats, whatever follows.

#![no_main]

use dvn_protocol::{
    messages::MAX_LINE,
    service::{
        Answer, Call, Decoder, FrameError,
        frames::{HEADER, MAX_DATA},
        line,
    },
};
use libfuzzer_sys::fuzz_target;
use serde_json::from_slice;

fuzz_target!(|data: &[u8]| match data {
    [b'l', rest @ ..] => a_line(rest),
    [b'f', rest @ ..] => frames(rest),
    _ => {}
});

fn a_line(bytes: &[u8]) {
    // What was read can be longer when it is written: a letter may become an escape.
    if let Ok(call) = from_slice::<Call>(bytes)
        && let Ok(line) = line(&call)
    {
        assert!(is_one_line(&line));
        assert_eq!(from_slice::<Call>(&line).ok(), Some(call));
    }
    if let Ok(answer) = from_slice::<Answer>(bytes)
        && let Ok(line) = line(&answer)
    {
        assert!(is_one_line(&line));
        assert_eq!(from_slice::<Answer>(&line).ok(), Some(answer));
    }
}

fn is_one_line(line: &[u8]) -> bool {
    line.len() <= MAX_LINE && line.iter().position(|byte| *byte == b'\n') == Some(line.len() - 1)
}

fn frames(bytes: &[u8]) {
    let whole = read([bytes].into_iter());
    let mut left = bytes;
    let pieces = std::iter::from_fn(|| {
        let size = usize::from(*left.first()?).clamp(1, left.len());
        let (piece, rest) = left.split_at(size);
        left = rest;
        Some(piece)
    });
    assert_eq!(read(pieces), whole);
    let (written, error) = whole;
    assert!(bytes.starts_with(&written));
    let rest = &bytes[written.len()..];
    assert!(error.is_some() || rest.len() < HEADER + MAX_DATA, "an unfinished frame is not too long");
}

/// The frames that were read, written again, and the error that ended them.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<FrameError>) {
    let (mut decoder, mut written, mut error) = (Decoder::new(), Vec::new(), None);
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(error.is_none(), "a frame after an error");
                    frame.encode(&mut written);
                }
                Ok(None) => break,
                Err(e) => {
                    assert!(error.is_none_or(|before| before == e), "another error");
                    error = Some(e);
                    break;
                }
            }
        }
    }
    (written, error)
}
