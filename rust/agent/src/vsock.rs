//! vsock sockets: plain stream sockets with an address of their own kind.
//!
//! The rule: this guest serves the host alone. With `vsock_loopback` in the kernel, a build in Nix's sandbox could dial
//! the guest's own ports, and through one of them it would be a trusted user of nix-daemon.

use rustix::{
    fd::{AsFd, OwnedFd},
    io,
    net::{
        self, AddressFamily, SocketAddrAny, SocketFlags, SocketType,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    },
};

/// The host's address.
pub const HOST: u32 = 2;

/// Any address of this guest.
const ANY: u32 = u32::MAX;

/// `struct sockaddr_vm`.
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags_and_zero: [u8; 4],
}

impl Address {
    fn new(cid: u32, port: u32) -> Self {
        Address { family: AddressFamily::VSOCK.as_raw(), reserved: 0, port, cid, flags_and_zero: [0; 4] }
    }
}

// SAFETY: `f` gets a pointer to a whole sockaddr_vm, which lives as long as the call, and its length.
unsafe impl SocketAddrArg for Address {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(self).cast(), size_of::<Address>() as SocketAddrLen)
    }
}

fn socket() -> io::Result<OwnedFd> {
    net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Listens on a port of this guest.
pub fn listen(port: u32, backlog: i32) -> io::Result<OwnedFd> {
    let listener = socket()?;
    net::bind(&listener, &Address::new(ANY, port))?;
    net::listen(&listener, backlog)?;
    Ok(listener)
}

/// The next connection from the host; others are closed.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    loop {
        let (socket, peer) = io::retry_on_intr(|| net::acceptfrom_with(listener.as_fd(), SocketFlags::CLOEXEC))?;
        if peer.and_then(|peer| cid(&peer)) == Some(HOST) {
            return Ok(socket);
        }
    }
}

/// The context id of this address; `None` if it is not a vsock address.
fn cid(address: &SocketAddrAny) -> Option<u32> {
    let whole = address.addr_len() as usize >= size_of::<Address>();
    (whole && address.address_family() == AddressFamily::VSOCK).then(|| {
        // SAFETY: the first `addr_len` bytes are initialised, as many as an Address has; any bytes are one.
        unsafe { address.as_ptr().cast::<Address>().read_unaligned() }.cid
    })
}

/// Connects to a port of the host.
pub fn connect(port: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    net::connect(&socket, &Address::new(HOST, port))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        os::unix::net::{UnixListener, UnixStream},
    };

    #[test]
    fn a_peer_is_known_by_its_address() {
        for peer in [0, 1, HOST, 3, ANY] {
            assert_eq!(cid(&Address::new(peer, 1 << 20).as_any()), Some(peer));
        }
        let elsewhere = std::net::SocketAddr::from(([2, 0, 0, 2], 2));
        assert_eq!(cid(&elsewhere.as_any()), None);
    }

    #[test]
    fn a_peer_other_than_the_host_is_closed_at_once() {
        let tmp = std::env::temp_dir().join(format!("not-the-host-{}", std::process::id()));
        let listener = UnixListener::bind(&tmp).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut peer = UnixStream::connect(&tmp).unwrap();
        std::fs::remove_file(&tmp).unwrap();
        assert_eq!(accept(&listener).unwrap_err(), io::Errno::AGAIN, "there is no other");
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }
}
