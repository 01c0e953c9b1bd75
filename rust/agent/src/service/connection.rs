//! A connection of the host: reads the request, answers it.

use super::{command, facts, power, session};
use crate::{clock, console::say};
use dvn_protocol::{
    messages::MAX_LINE,
    service::{Answer, Call, Exec, Reply, line},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use std::{
    io,
    time::{Duration, Instant},
};

/// How long the host may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the connection to its end.
pub fn serve(client: &OwnedFd) {
    if let Err(e) = converse(client) {
        say(format_args!("a connection of the host ended: {e}"));
    }
}

fn converse(client: &OwnedFd) -> io::Result<()> {
    let (request, rest) = read_request(client, Instant::now() + REQUEST_TIMEOUT)?;
    match understand(&request) {
        Ok(Call::Exec(exec)) => run(client, &exec, &rest),
        Ok(Call::ShutDown) => shut_down(client),
        Ok(Call::Hello) => reply(client, &Ok(Reply::Hello(facts::hello()))),
        Ok(Call::Addresses) => reply(client, &facts::addresses().map(|addresses| Reply::Addresses { addresses })),
        Ok(Call::SetClock { unix_nanos }) => reply(client, &clock::set(unix_nanos).map(|()| Reply::Done)),
        Err(why) => reply(client, &Err(why)),
    }
}

fn understand(request: &[u8]) -> Result<Call, String> {
    serde_json::from_slice(request).map_err(|e| format!("this agent does not support this request: {e}"))
}

/// Starts a command, and serves it unless it is detached. `rest` is what the host has sent after its request.
fn run(client: &OwnedFd, exec: &Exec, rest: &[u8]) -> io::Result<()> {
    match command::start(exec) {
        Err(why) => reply(client, &Err(why)),
        Ok(running) => {
            let started = reply(client, &Ok(Reply::Started { pid: running.pid() }));
            if exec.detach {
                running.leave();
                return started;
            }
            match started {
                Ok(()) => session::serve(client, running, rest),
                Err(e) => {
                    running.end();
                    return Err(e);
                }
            }
            Ok(())
        }
    }
}

fn shut_down(client: &OwnedFd) -> io::Result<()> {
    say("the host asked to shut down");
    match power::begin() {
        Err(why) => reply(client, &Err(why)),
        Ok(shutdown) => {
            let answered = reply(client, &Ok(Reply::Done));
            shutdown.watch();
            answered
        }
    }
}

/// The first line without its newline, and the bytes after it.
fn read_request(client: &OwnedFd, deadline: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut more = [0; 4096];
    loop {
        let n = match recv(client, &mut more[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(io::Error::other("it was closed before a request")),
            Ok((n, _)) => n,
            Err(Errno::AGAIN) => {
                wait_readable(client, deadline)?;
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let searched = bytes.len();
        bytes.extend_from_slice(&more[..n]);
        if let Some(at) = bytes[searched..].iter().position(|byte| *byte == b'\n') {
            let rest = bytes.split_off(searched + at + 1);
            bytes.pop();
            return Ok((bytes, rest));
        }
        if bytes.len() >= MAX_LINE {
            return Err(io::Error::other("its request is too long"));
        }
    }
}

fn wait_readable(client: &OwnedFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(client, PollFlags::IN)], Some(&timeout)) {
        Ok(0) if left.is_zero() => Err(io::Error::other("it sent no request")),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn reply(client: &OwnedFd, answer: &Answer) -> io::Result<()> {
    let bytes = line(answer).or_else(|why| line(&Answer::Err(why))).map_err(io::Error::other)?;
    let mut sent = 0;
    while sent < bytes.len() {
        match send(client, &bytes[sent..], SendFlags::NOSIGNAL) {
            Ok(n) => sent += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
