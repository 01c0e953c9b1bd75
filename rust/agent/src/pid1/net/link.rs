//! Network interfaces: state, address, default route. Uses the old ioctls, which suffice for one interface.

use rustix::{
    fd::OwnedFd,
    io,
    ioctl::{self, Ioctl, IoctlOutput, Opcode},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};
use std::{ffi::c_void, net::Ipv4Addr};

const SIOCADDRT: Opcode = 0x890B;
const SIOCDELRT: Opcode = 0x890C;
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891C;
const SIOCGIFHWADDR: Opcode = 0x8927;
const IFF_UP: u16 = 1;
const RTF_UP: u16 = 1;
const RTF_GATEWAY: u16 = 2;

/// `struct ifreq`: a name and a union, which begins with flags (u16) or with a socket address.
#[repr(C)]
#[derive(Clone, Copy)]
struct InterfaceRequest {
    name: [u8; 16],
    value: [u8; 24],
}

/// `struct rtentry` of 64-bit systems.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RouteEntry {
    pad1: u64,
    destination: [u8; 16],
    gateway: [u8; 16],
    mask: [u8; 16],
    flags: u16,
    pad2: u16,
    pad3: u64,
    pad4: u64,
    metric: i16,
    device: u64,
    mtu: u64,
    window: u64,
    rtt: u16,
}

/// An ioctl that reads and writes one plain struct.
struct Plain<T> {
    opcode: Opcode,
    value: T,
}

// SAFETY: the pointer is to a whole `T`; it is only used here, with the opcodes above, each with the struct which the kernel
// defines for it and which consists of integers, so that any content is valid.
unsafe impl<T: Copy> Ioctl for Plain<T> {
    type Output = T;
    const IS_MUTATING: bool = true;
    fn opcode(&self) -> Opcode {
        self.opcode
    }
    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(&mut self.value).cast()
    }
    unsafe fn output_from_ptr(_: IoctlOutput, pointer: *mut c_void) -> io::Result<T> {
        // SAFETY: it is the pointer of `as_ptr`.
        Ok(unsafe { pointer.cast::<T>().read() })
    }
}

/// One interface.
pub struct Link {
    name: [u8; 16],
    socket: OwnedFd,
}

impl Link {
    /// An interface, which need not exist.
    pub fn named(name: &str) -> io::Result<Link> {
        let mut padded = [0; 16];
        let fits = padded.get_mut(..name.len()).filter(|_| name.len() < 16).ok_or(io::Errno::NAMETOOLONG)?;
        fits.copy_from_slice(name.as_bytes());
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Link { name: padded, socket })
    }

    fn request(&self, opcode: Opcode, value: [u8; 24]) -> io::Result<[u8; 24]> {
        let value = InterfaceRequest { name: self.name, value };
        // SAFETY: all opcodes given here take a struct ifreq.
        unsafe { ioctl::ioctl(&self.socket, Plain { opcode, value }) }.map(|answer| answer.value)
    }

    /// Brings it up.
    pub fn up(&self) -> io::Result<()> {
        let mut value = self.request(SIOCGIFFLAGS, [0; 24])?;
        let flags = u16::from_ne_bytes([value[0], value[1]]) | IFF_UP;
        value[..2].copy_from_slice(&flags.to_ne_bytes());
        self.request(SIOCSIFFLAGS, value).map(drop)
    }

    /// Its hardware address.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let v = self.request(SIOCGIFHWADDR, [0; 24])?;
        Ok([v[2], v[3], v[4], v[5], v[6], v[7]])
    }

    /// Sets its only address. Zero removes it.
    pub fn set_address(&self, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        let mut value = [0; 24];
        value[..16].copy_from_slice(&socket_address(address));
        self.request(SIOCSIFADDR, value)?;
        if address.is_unspecified() {
            return Ok(());
        }
        value[..16].copy_from_slice(&socket_address(mask));
        self.request(SIOCSIFNETMASK, value).map(drop)
    }

    /// Sends everything without another route to this gateway.
    pub fn set_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let any = socket_address(Ipv4Addr::UNSPECIFIED);
        let entry = RouteEntry {
            destination: any,
            gateway: socket_address(gateway),
            mask: any,
            flags: RTF_UP | RTF_GATEWAY,
            ..RouteEntry::default()
        };
        let ask = |opcode| {
            // SAFETY: both opcodes given here take a struct rtentry.
            unsafe { ioctl::ioctl(&self.socket, Plain { opcode, value: entry }) }.map(drop)
        };
        let _ = ask(SIOCDELRT); // from an earlier lease
        ask(SIOCADDRT)
    }
}

/// `struct sockaddr_in`, port 0.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&AddressFamily::INET.as_raw().to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// Builds expect 127.0.0.1.
pub fn loopback_up() {
    if let Err(e) = Link::named("lo").and_then(|lo| lo.up()) {
        crate::console::say(format_args!("loopback: {e}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_the_kernels() {
        assert_eq!((size_of::<InterfaceRequest>(), size_of::<RouteEntry>()), (40, 120));
        assert_eq!(std::mem::offset_of!(RouteEntry, flags), 56);
        assert_eq!(socket_address(Ipv4Addr::new(10, 0, 2, 15))[..8], [2, 0, 0, 0, 10, 0, 2, 15]);
    }

    #[test]
    fn a_name_too_long_is_an_error() {
        assert!(Link::named(&"x".repeat(16)).is_err());
        assert!(Link::named("lo").is_ok());
    }
}
