//! vsock sockets: plain stream sockets with an address of their own kind.

use rustix::{
    fd::{AsFd, OwnedFd},
    io,
    net::{
        self, AddressFamily, SocketFlags, SocketType,
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

/// The next connection.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    io::retry_on_intr(|| net::accept_with(listener.as_fd(), SocketFlags::CLOEXEC))
}

/// Connects to a port of the host.
pub fn connect(port: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    net::connect(&socket, &Address::new(HOST, port))?;
    Ok(socket)
}
