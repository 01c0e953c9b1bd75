//! ssh over a vsock connection without a proxy in between.

use crate::bare::dial;
use std::{io::IoSlice, os::fd::AsFd, path::Path};

/// The verb of this program that passes a vsock connection to ssh.
pub const PASS: &str = "pass-descriptor";

/// For ssh's `ProxyUseFdpass`: passes the connection itself, so that no process is between ssh and the device.
pub fn pass_descriptor(socket: &Path, port: u32) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let stream = dial(socket, port).unwrap();
    stream.set_read_timeout(None).unwrap();
    let fds = [stream.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(rustix::stdio::stdout(), &[IoSlice::new(b"\0")], &mut ancillary, SendFlags::empty()).unwrap();
}
