//! ssh over a vsock connection that nothing stands in front of.

use crate::bare::dial;
use std::{io::IoSlice, os::fd::AsFd, path::Path};

/// The verb of this program that hands a vsock connection to ssh.
pub const PASS: &str = "pass-descriptor";

/// For ssh's `ProxyUseFdpass`: hands it the connection itself, so that nothing stands between ssh and the device.
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
