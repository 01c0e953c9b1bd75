//! The DHCP client: obtains an address, renews its lease, and starts over when it is lost.

use super::{
    super::ending,
    dhcp::{self, Answer, Kind, Question},
    link::Link,
};
use crate::console::say;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt},
    rand::{GetRandomFlags, getrandom},
};
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

const CLIENT: u16 = 68;
const SERVER: u16 = 67;
const RESOLV_CONF: &str = "/run/resolv.conf";

/// Timeouts for an answer before the question is repeated; the last one is used from then on.
const TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(16)];

/// Shortest time between two renewals.
const SHORTEST: Duration = Duration::from_secs(30);

/// Keeps an interface configured. Returns only if there is no such interface.
pub fn run(interface: &str, host_name: &str) {
    let _ = fs::write(RESOLV_CONF, "");
    if let Err(e) = Link::named(interface).and_then(|link| link.up()) {
        say(format_args!("no network: {interface}: {e}"));
        return;
    }
    while !ending::begun() {
        if let Err(e) = obtain_and_keep(interface, host_name) {
            say(format_args!("network: {e}"));
            thread::sleep(SHORTEST);
        }
    }
}

fn obtain_and_keep(interface: &str, host_name: &str) -> io::Result<()> {
    let link = Link::named(interface)?;
    let mac = link.mac()?;
    let client = Client { socket: socket(interface)?, mac, host_name };
    let mut lease = client.obtain()?;
    loop {
        link.set_address(lease.address, lease.mask)?;
        if let Some(router) = lease.router {
            link.set_default_route(router)?;
        }
        fs::write(RESOLV_CONF, dhcp::resolv_conf(&lease))?;
        say(format_args!("network {}", lease.address));
        match client.keep(&lease) {
            Some(renewed) => lease = renewed,
            None => {
                say(format_args!("network: the address {} is no longer ours", lease.address));
                return link.set_address(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED).map_err(io::Error::from);
            }
        }
    }
}

/// A socket that can broadcast from an interface without an address.
fn socket(interface: &str) -> io::Result<UdpSocket> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind_to_device(socket.as_fd(), interface)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT))?;
    Ok(socket.into())
}

fn bind_to_device(socket: std::os::fd::BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the pointer and the length are those of `interface`, which the kernel only reads.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            interface.len() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

struct Client<'a> {
    socket: UdpSocket,
    mac: [u8; 6],
    host_name: &'a str,
}

impl Client<'_> {
    /// Asks until a server assigns an address.
    fn obtain(&self) -> io::Result<Answer> {
        let mut round = 0;
        loop {
            let timeout = TIMEOUTS[round.min(TIMEOUTS.len() - 1)];
            round += 1;
            let Some(offer) = self.exchange(Question::Discover, Ipv4Addr::BROADCAST, timeout)? else { continue };
            if offer.kind != Kind::Offer {
                continue;
            }
            let question = Question::Request { address: offer.address, server: offer.server };
            match self.exchange(question, Ipv4Addr::BROADCAST, timeout)? {
                Some(answer) if answer.kind == Kind::Ack => return Ok(answer),
                _ => {}
            }
        }
    }

    /// Sleeps through half the lease and renews it; `None` if the renewal was refused or the lease has expired.
    fn keep(&self, lease: &Answer) -> Option<Answer> {
        let end = Instant::now() + lease.lease;
        thread::sleep((lease.lease / 2).max(SHORTEST));
        loop {
            let question = Question::Renew { address: lease.address };
            if let Ok(Some(answer)) = self.exchange(question, lease.server, TIMEOUTS[TIMEOUTS.len() - 1]) {
                return (answer.kind == Kind::Ack).then_some(answer);
            }
            let left = end.checked_duration_since(Instant::now())?;
            thread::sleep((left / 2).max(SHORTEST));
        }
    }

    /// Sends one question and waits for its answer.
    fn exchange(&self, question: Question, to: Ipv4Addr, timeout: Duration) -> io::Result<Option<Answer>> {
        let mut random = [0; 4];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let transaction = u32::from_ne_bytes(random);
        self.socket.send_to(&dhcp::ask(question, transaction, self.mac, self.host_name), (to, SERVER))?;
        let deadline = Instant::now() + timeout;
        let mut buffer = [0; dhcp::MAX];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(n) => {
                    if let Some(answer) = dhcp::parse(&buffer[..n], transaction, self.mac) {
                        return Ok(Some(answer));
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}
