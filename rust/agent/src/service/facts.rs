//! What the guest is, and how it can be reached.

use dvn_protocol::{
    VERSION,
    service::{Address, Hello},
};
use std::{
    ffi::CStr,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    ptr,
};

/// The agent and the guest.
pub fn hello() -> Hello {
    let uname = rustix::system::uname();
    let os = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(path).ok());
    Hello {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        os: os.as_deref().and_then(pretty_name).unwrap_or_else(|| "Linux".to_owned()),
        host_name: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
    }
}

/// `PRETTY_NAME` of an `os-release`.
fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    let inner = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(value);
    let mut name = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        name.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    (!name.is_empty()).then_some(name)
}

/// The guest's addresses, except loopback and link-local ones; those of hardware interfaces first.
pub fn addresses() -> Result<Vec<Address>, String> {
    let all = interfaces().map_err(|e| format!("the addresses of the guest cannot be read: {e}"))?;
    let mut found: Vec<Address> = all
        .into_iter()
        .filter(|(_, address)| is_reachable(*address))
        .map(|(interface, address)| Address { mac: mac(&interface), interface, address })
        .collect();
    found.sort_by_key(|address| !sys(&address.interface).join("device").exists());
    Ok(found)
}

fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()),
    }
}

fn sys(interface: &str) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(interface)
}

fn mac(interface: &str) -> Option<String> {
    let text = fs::read_to_string(sys(interface).join("address")).ok()?;
    let text = text.trim();
    (!text.is_empty() && text != "00:00:00:00:00:00").then(|| text.to_owned())
}

/// The names and addresses of all interfaces that are up.
fn interfaces() -> io::Result<Vec<(String, IpAddr)>> {
    let list = List::read()?;
    let mut found = Vec::new();
    let mut next = list.0;
    // SAFETY: each pointer is null or an entry of the list, which lives until `list` is dropped.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: every entry has a name, a C string of the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy();
        // SAFETY: it is null or points to an address of the list, as long as its family says.
        let address = unsafe { ip(entry.ifa_addr) };
        if let Some(address) = address
            && entry.ifa_flags & libc::IFF_UP as u32 != 0
        {
            found.push((name.into_owned(), address));
        }
    }
    Ok(found)
}

/// The result of getifaddrs(3).
struct List(*mut libc::ifaddrs);

impl List {
    fn read() -> io::Result<List> {
        let mut first = ptr::null_mut();
        // SAFETY: the pointer is to a value that outlives the call.
        if unsafe { libc::getifaddrs(&mut first) } == 0 { Ok(List(first)) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: it comes from getifaddrs, and no reference into it is left.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

/// # Safety
///
/// The pointer is null, or to a socket address that is as long as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every socket address begins with its family.
    let family = unsafe { ptr::addr_of!((*address).sa_family).read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is a sockaddr_in.
            let v4 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an address of this family is a sockaddr_in6.
            let v6 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_of_the_system_is_read_with_and_without_quotes() {
        let name = |text: &str| pretty_name(text);
        assert_eq!(
            name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13\"\nVERSION=1").as_deref(),
            Some("Debian GNU/Linux 13")
        );
        assert_eq!(name("PRETTY_NAME='Alpine'").as_deref(), Some("Alpine"));
        assert_eq!(name("PRETTY_NAME=Arch\\ Linux").as_deref(), Some("Arch Linux"));
        assert_eq!((name("NAME=x"), name("PRETTY_NAME=\"\"")), (None, None));
    }

    #[test]
    fn loopback_is_listed_and_is_no_way_to_the_guest() {
        let all = interfaces().unwrap();
        assert!(all.contains(&("lo".to_owned(), IpAddr::from([127, 0, 0, 1]))), "{all:?}");
        assert!(addresses().unwrap().iter().all(|address| address.interface != "lo"));
        for (address, expected) in [
            ("192.168.64.2", true),
            ("fd00::2", true),
            ("2001:db8::1", true),
            ("169.254.1.1", false),
            ("fe80::1", false),
            ("::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_reachable(address.parse().unwrap()), expected, "{address}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = pretty_name(&text);
            let _ = pretty_name(&format!("PRETTY_NAME={text}"));
        }
    }
}
