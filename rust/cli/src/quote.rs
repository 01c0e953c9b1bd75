//! Quoting for ssh's configuration.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// A path as a value in ssh's configuration: it may hold spaces, and `%` stands for itself.
pub fn quoted(path: &OsStr) -> OsString {
    let mut value = vec![b'"'];
    for byte in path.as_bytes() {
        match byte {
            b'"' | b'\\' => value.extend_from_slice(&[b'\\', *byte]),
            b'%' => value.extend_from_slice(b"%%"),
            byte => value.push(*byte),
        }
    }
    value.push(b'"');
    OsString::from_vec(value)
}
