//! Copies bytes between two stream sockets in both directions, until both have ended.
//!
//! Each direction is a buffer between a reading and a writing end. The end of one direction is passed on as a
//! half-close, so a client may stop sending and still read the answer. A side that has *closed* its whole socket is
//! different: it no longer reads, and the service must learn that (nix-daemon then ends the client's builds). So the
//! bytes it has sent are delivered, and then both sockets are closed.
//!
//! The sockets are watched edge-triggered: a half-closed side stays "readable" for ever, and with level triggering the
//! thread would never sleep.

use rustix::{
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{self, Errno},
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};
use std::{
    mem::MaybeUninit,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// Buffer size in bytes, for each direction.
const BUFFER: usize = 64 * 1024;

/// Buffers copied in one direction before the other has its turn.
const TURN: usize = 16;

/// One end of a connection to a service of this guest.
pub struct Server {
    pub socket: OwnedFd,
    pub trial: Option<Trial>,
}

impl From<OwnedFd> for Server {
    fn from(socket: OwnedFd) -> Self {
        Server { socket, trial: None }
    }
}

impl From<UnixStream> for Server {
    fn from(socket: UnixStream) -> Self {
        OwnedFd::from(socket).into()
    }
}

/// A condition that a connection must meet within this time, or it is closed.
pub struct Trial {
    pub time: Duration,
    pub passed: Box<dyn FnOnce() -> bool + Send>,
}

/// Copies bytes both ways until both directions have ended. An error ends the connection like a close.
pub fn join(client: OwnedFd, server: Server) {
    // The sockets are closed in any case.
    let _ = relay(client.as_fd(), server.socket.as_fd(), server.trial);
}

fn relay(a: BorrowedFd<'_>, b: BorrowedFd<'_>, trial: Option<Trial>) -> io::Result<()> {
    let mut trial = trial.map(|trial| (Instant::now() + trial.time, trial.passed));
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(&watch, a, EventData::new_u64(0), interest)?;
    epoll::add(&watch, b, EventData::new_u64(1), interest)?;
    let sides = [a, b];
    let mut ways = [Way::new(), Way::new()]; // from side 0, from side 1
    let mut hung_up = [false; 2];
    loop {
        let mut more = false;
        for from in [0, 1] {
            more |= ways[from].pump(sides[from], sides[1 - from]);
        }
        // All bytes of a closed side are delivered; it would not read the other direction.
        let in_vain = (0..2).any(|side| ways[side].done && (hung_up[side] || is_gone(sides[side])));
        if in_vain || ways.iter().all(|way| way.done) {
            return Ok(());
        }
        let left = trial.as_ref().map(|(end, _)| end.saturating_duration_since(Instant::now()));
        if let Some((_, passed)) = trial.take_if(|_| left == Some(Duration::ZERO))
            && !passed()
        {
            return Ok(());
        }
        if more {
            continue;
        }
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 2];
        let timeout = trial.is_some().then_some(left).flatten().and_then(|left| Timespec::try_from(left).ok());
        let events = match epoll::wait(&watch, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        for event in events {
            let (flags, data) = (event.flags, event.data); // copied: the struct is packed
            hung_up[usize::from(data.u64() != 0)] |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
        }
    }
}

/// Whether the peer has closed both directions. Reading cannot distinguish this from a half-close; only writing can.
fn is_gone(side: BorrowedFd<'_>) -> bool {
    matches!(
        send(side, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT),
        Err(Errno::PIPE | Errno::NOTCONN | Errno::CONNRESET)
    )
}

struct Way {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The reading end has ended; buffered bytes are still to be written.
    ended: bool,
    /// Nothing more will be copied in this direction.
    done: bool,
}

impl Way {
    fn new() -> Self {
        Way { buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0, ended: false, done: false }
    }

    /// Copies what can be copied now; true if there is more.
    fn pump(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
        for _ in 0..TURN {
            if self.done {
                return false;
            }
            if self.start == self.end {
                if self.ended {
                    let _ = shutdown(to, Shutdown::Write);
                    self.done = true;
                    return false;
                }
                match recv(from, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                    Ok((0, _)) => self.ended = true,
                    Ok((n, _)) => (self.start, self.end) = (0, n),
                    Err(Errno::AGAIN) => return false,
                    Err(Errno::INTR) => {}
                    Err(_) => self.ended = true,
                }
                continue;
            }
            match send(to, &self.buffer[self.start..self.end], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => self.start += n,
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // The receiver has gone; the sender learns it through its own direction.
                    let _ = shutdown(from, Shutdown::Read);
                    self.done = true;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{
        io::{Read, Write},
        net::Shutdown,
        os::unix::net::UnixStream,
        thread,
    };

    /// A client and a server with a relay between them.
    fn joined() -> (UnixStream, UnixStream, thread::JoinHandle<()>) {
        let (client, a) = UnixStream::pair().unwrap();
        let (server, b) = UnixStream::pair().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap(); // fails instead of hanging
        }
        (client, server, thread::spawn(move || join(a.into(), b.into())))
    }

    fn rest(mut from: &UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn an_answer_comes_back_after_a_half_close() {
        let (mut client, mut server, relay) = joined();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&server), b"question");
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(rest(&client), b"answer");
        relay.join().unwrap();
    }

    #[test]
    fn the_service_may_end_first() {
        let (mut client, mut server, relay) = joined();
        server.write_all(b"banner").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&client), b"banner");
        client.write_all(b"late").unwrap();
        drop(client);
        assert_eq!(rest(&server), b"late");
        relay.join().unwrap();
    }

    #[test]
    fn a_client_that_is_gone_takes_the_service_with_it() {
        let (mut client, server, relay) = joined();
        client.write_all(b"build").unwrap();
        drop(client);
        // Not a half-close: the relay ends although the service has sent nothing.
        relay.join().unwrap();
        assert_eq!(rest(&server), b"build");
        assert!((&server).write_all(b"x").is_err());
    }

    #[test]
    fn a_client_that_closes_after_a_half_close_is_detected() {
        let (client, server, relay) = joined();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&server), b"");
        drop(client);
        relay.join().unwrap();
        drop(server);
    }

    #[test]
    fn a_connection_that_does_not_pass_its_trial_is_closed_and_one_that_does_goes_on() {
        for passes in [false, true] {
            let (mut client, a) = UnixStream::pair().unwrap();
            let (server, b) = UnixStream::pair().unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let (asked, tried) = std::sync::mpsc::channel();
            let passed = Box::new(move || {
                asked.send(()).unwrap();
                passes
            });
            let trial = Trial { time: Duration::from_millis(50), passed };
            let relay = thread::spawn(move || join(a.into(), Server { socket: b.into(), trial: Some(trial) }));
            tried.recv().unwrap();
            if passes {
                client.write_all(b"on").unwrap();
                drop(client);
                assert_eq!(rest(&server), b"on");
            } else {
                assert_eq!((rest(&server), rest(&client)), (vec![], vec![]));
            }
            relay.join().unwrap();
        }
    }

    #[test]
    fn the_thread_sleeps_while_nothing_moves() {
        let (client, a) = UnixStream::pair().unwrap();
        let (server, b) = UnixStream::pair().unwrap();
        let relay = thread::spawn(move || {
            join(a.into(), b.into());
            rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
        });
        client.shutdown(Shutdown::Write).unwrap();
        thread::sleep(std::time::Duration::from_millis(300));
        drop((client, server));
        let busy = relay.join().unwrap();
        assert!(busy.tv_sec == 0 && busy.tv_nsec < 100_000_000, "{busy:?} of processor time while idle");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_byte_arrives_in_order(
            up in prop::collection::vec(any::<u8>(), 0..400_000),
            down in prop::collection::vec(any::<u8>(), 0..400_000),
        ) {
            let (client, server, relay) = joined();
            let send = |to: &UnixStream, bytes: Vec<u8>| {
                let mut to = to.try_clone().unwrap();
                thread::spawn(move || { to.write_all(&bytes).unwrap(); to.shutdown(Shutdown::Write).unwrap(); })
            };
            let senders = [send(&client, up.clone()), send(&server, down.clone())];
            let reader = { let server = server.try_clone().unwrap(); thread::spawn(move || rest(&server)) };
            prop_assert_eq!(rest(&client), down);
            prop_assert_eq!(reader.join().unwrap(), up);
            for sender in senders { sender.join().unwrap(); }
            relay.join().unwrap();
        }
    }
}
