//! Listening sockets: inherited from launchd or systemd, or bound here.
//!
//! An inherited socket is recognised by its address, so that no two configurations must agree on a name. launchd hands
//! sockets over by name only, and uses one name for all: `Listeners`.

use dvn_types::{Kind, Report};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// The key under `Sockets` in the launchd property list, which the nix-darwin module writes.
pub const LAUNCHD_SOCKETS: &str = "Listeners";

/// Connections that may wait in a socket's queue. A whole Nix build may connect at once.
const BACKLOG: i32 = 1024;

/// Sockets that were open before this process began.
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<TcpListener>,
    /// Why they cannot be used, if they cannot.
    unusable: Option<Report>,
}

impl Inherited {
    /// For tests: these sockets as if inherited from a service manager.
    #[cfg(any(test, feature = "testing"))]
    pub fn of(sockets: Vec<TcpListener>) -> Inherited {
        Inherited { sockets, unusable: None }
    }

    /// Takes over what launchd or systemd hand to this process. Call it once. If that fails, each address that cannot be bound has
    /// that reason.
    pub fn take() -> Inherited {
        Inherited::from(platform::inherited())
    }

    fn from(handed_over: io::Result<Vec<TcpListener>>) -> Inherited {
        match handed_over {
            Ok(sockets) => Inherited { sockets, unusable: None },
            Err(e) => {
                let why = format!("cannot take over the sockets that the service manager opened: {e}");
                let report = Report::new(Kind::Host, why);
                let unusable =
                    report.hint("let its configuration open TCP sockets of this program's addresses, and no others");
                Inherited { sockets: Vec::new(), unusable: Some(unusable) }
            }
        }
    }

    /// Whether nothing was handed over.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.unusable.is_none()
    }

    /// The inherited socket with this address, or a new one.
    pub fn listen(&mut self, address: SocketAddr) -> Result<TcpListener, Report> {
        let found = self.sockets.iter().position(|socket| socket.local_addr().is_ok_and(|local| local == address));
        let listener = match found {
            Some(index) => self.sockets.swap_remove(index),
            // The service manager may still have the address.
            None => bind(address).map_err(|report| self.unusable.clone().unwrap_or(report))?,
        };
        let ready = listener.set_nonblocking(true);
        ready.map_err(|e| Report::new(Kind::Host, format!("cannot use the socket {address}: {e}")))?;
        Ok(listener)
    }

    /// Inherited addresses that no machine has claimed.
    pub fn left_over(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

/// The sockets under our name, by launchd's rules: its answer says whether this process is one of its jobs, and whether
/// that job has sockets.
#[cfg(any(target_os = "macos", test, feature = "testing"))]
pub fn from_launchd(
    activate: impl FnOnce(&std::ffi::CStr) -> Result<Vec<std::os::fd::OwnedFd>, i32>,
) -> io::Result<Vec<TcpListener>> {
    // The same numbers on every Unix.
    const ENOENT: i32 = 2;
    const ESRCH: i32 = 3;
    let name = std::ffi::CString::new(LAUNCHD_SOCKETS)?;
    let descriptors = match activate(&name) {
        Ok(descriptors) => descriptors,
        // The job has no such socket, or this process is not a job of launchd.
        Err(ENOENT | ESRCH) => return Ok(Vec::new()),
        Err(error) => return Err(io::Error::from_raw_os_error(error)),
    };
    let listener = |descriptor| {
        let socket = Socket::from(descriptor);
        // launchd does not promise this flag, and a program that the daemon starts must not keep the port open.
        socket.set_cloexec(true)?;
        let fits = socket.r#type()? == Type::STREAM && socket.local_addr()?.as_socket().is_some();
        let other = || io::Error::new(io::ErrorKind::InvalidInput, "launchd's socket is not for TCP");
        fits.then(|| socket.into()).ok_or_else(other)
    };
    descriptors.into_iter().map(listener).collect()
}

fn bind(address: SocketAddr) -> Result<TcpListener, Report> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            Report::new(Kind::Busy, format!("cannot listen on {address}: another program has that port"))
                .hint(format!(
                    "find it: ss -ltnp 'sport = :{0}', or on a Mac: lsof -nP -iTCP:{0} -sTCP:LISTEN",
                    address.port()
                ))
                .hint("or choose another port: the setting `listen`")
                .hint("if it is a daemon whose state directory was deleted, it ends within a minute")
        }
        io::ErrorKind::PermissionDenied => Report::new(Kind::Host, format!("this user may not listen on {address}"))
            .hint("choose a port above 1023: the setting `listen`"),
        _ => Report::new(Kind::Host, format!("cannot listen on {address}: {e}")),
    })
}

#[cfg(not(target_os = "macos"))]
mod platform {
    use std::{io, net::TcpListener};

    pub fn inherited() -> io::Result<Vec<TcpListener>> {
        // Reads and removes LISTEN_FDS and LISTEN_PID, which are for this process alone.
        let mut fds = listenfd::ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..fds.len() {
            listeners.extend(fds.take_tcp_listener(index)?);
        }
        Ok(listeners)
    }
}

#[cfg(target_os = "macos")]
#[allow(unsafe_code)]
mod platform {
    use std::{
        ffi::{CStr, c_char, c_int, c_void},
        io,
        net::TcpListener,
        os::fd::{FromRawFd, OwnedFd},
        ptr, slice,
    };

    // launch.h, in libSystem since macOS 10.10.
    unsafe extern "C" {
        fn launch_activate_socket(name: *const c_char, fds: *mut *mut c_int, count: *mut usize) -> c_int;
        fn free(memory: *mut c_void);
    }

    pub fn inherited() -> io::Result<Vec<TcpListener>> {
        super::from_launchd(activate)
    }

    fn activate(name: &CStr) -> Result<Vec<OwnedFd>, i32> {
        let (mut fds, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the name is a C string, and both out-pointers are valid for the call.
        match unsafe { launch_activate_socket(name.as_ptr(), &mut fds, &mut count) } {
            0 => {}
            error => return Err(error),
        }
        // SAFETY: on success `fds` is an array of `count` descriptors, now owned by this process.
        let descriptors = unsafe { slice::from_raw_parts(fds, count) }
            .iter()
            // SAFETY: each descriptor is open and has no other owner.
            .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
            .collect();
        // SAFETY: launch_activate_socket(3) allocates the array with malloc and leaves it to the caller.
        unsafe { free(fds.cast()) };
        Ok(descriptors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_in_use_is_named_with_a_way_to_find_its_owner() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert_eq!(error.kind, Kind::Busy);
        assert!(error.message.contains(&address.to_string()) && error.hints[0].contains("ss -ltnp"), "{error:?}");
    }

    #[test]
    fn launchd_decides_whether_there_are_sockets() {
        for (answer, outcome) in [(2, Ok(0)), (3, Ok(0)), (13, Err(Some(13)))] {
            let sockets = from_launchd(|_| Err(answer));
            assert_eq!(sockets.map(|found| found.len()).map_err(|e| e.raw_os_error()), outcome, "{answer}");
        }
        let datagrams = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(from_launchd(|_| Ok(vec![datagrams.into()])).is_err());
    }

    #[test]
    fn an_inherited_socket_is_found_by_its_address() {
        let ours = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let other = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, left) = (ours.local_addr().unwrap(), other.local_addr().unwrap());
        let mut inherited = Inherited::of(vec![other, ours]);
        assert_eq!(inherited.listen(address).unwrap().local_addr().unwrap(), address);
        assert_eq!(inherited.left_over(), [left]);
    }

    #[test]
    fn sockets_that_cannot_be_taken_over_are_the_reason_why_an_address_cannot_be_bound() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut inherited = Inherited::from(Err(io::Error::from_raw_os_error(13)));
        assert!(!inherited.is_empty() && Inherited::from(Ok(vec![])).is_empty());
        let report = inherited.listen(taken.local_addr().unwrap()).unwrap_err();
        assert!(report.kind == Kind::Host && report.message.contains("the service manager opened"), "{report:?}");
        inherited.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    }
}
