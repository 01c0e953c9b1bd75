//! Serves a running command: frames of the host become input, its output becomes frames.
//!
//! One thread waits for all ends at once. The rule: each direction holds a bounded amount of data, and reads more only
//! when that is delivered. So a client that does not read stops the command's output, and a command that does not read
//! stops the client's input; signals and sizes behind that input wait with it, but the end of the connection does not.

use super::command::{self, Running};
use crate::console::say;
use dvn_protocol::service::{Decoder, Frame};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
    io::{Errno, ioctl_fionread, read, write},
    net::{RecvFlags, SendFlags, recv, send},
    process::Signal,
};
use std::{
    io::{self, PipeReader},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
};

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// Input that may wait for the command before the client's next frame is read.
const INPUT_LIMIT: usize = 256 * 1024;

/// Output that may wait for the client before more is read from the command.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// The end-of-file character of a terminal (control-D).
const END_OF_FILE: u8 = 4;

/// Serves the command until it has ended and the client knows, or until the client is gone, which ends the command.
/// `rest` is what the client has sent already.
pub fn serve(client: &OwnedFd, running: Running, rest: &[u8]) {
    match running.end_watch() {
        Ok(ended) => serve_watched(client, running, ended, rest),
        Err(e) => {
            say(format_args!("a command was ended, since it cannot be watched: {e}"));
            running.end();
        }
    }
}

/// As [`serve`], with a descriptor that becomes readable when the command ends.
pub fn serve_watched(client: &OwnedFd, running: Running, ended: PipeReader, rest: &[u8]) {
    let mut session = Session {
        client,
        running: Some(running),
        ended,
        decoder: Decoder::new(),
        input: Queue::default(),
        end_of_input: false,
        output: Queue::default(),
        left: None,
        scratch: vec![0; PIECE],
    };
    session.decoder.push(rest);
    if let Err(why) = session.run() {
        if let Some(why) = why {
            say(format_args!("a command was ended: {why}"));
        }
        if let Some(running) = session.running {
            running.end();
        }
    }
}

/// Why a session cannot continue: an error, or `None` if the client has closed the connection.
type Gone = Option<String>;

struct Session<'a> {
    client: &'a OwnedFd,
    /// `None` once the command has ended.
    running: Option<Running>,
    ended: PipeReader,
    decoder: Decoder,
    input: Queue,
    /// After `input` comes the end.
    end_of_input: bool,
    output: Queue,
    /// Once the command has ended: how much of each output is still its own. Processes that it left behind may write on.
    left: Option<[usize; 2]>,
    scratch: Vec<u8>,
}

/// Bytes that wait to be written.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    start: usize,
}

impl Queue {
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn written(&mut self, n: usize) {
        self.start += n;
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Where to append.
    fn tail(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.start = 0;
        &mut self.bytes
    }
}

impl Session<'_> {
    /// Returns once the client has the last frame.
    fn run(&mut self) -> Result<(), Gone> {
        self.take_frames()?;
        loop {
            self.feed();
            self.collect();
            self.conclude();
            self.flush()?;
            match &self.running {
                None if self.output.waiting().is_empty() => return Ok(()),
                // There was no room for all that the command has left.
                Some(_) if self.left.is_some() && self.output.waiting().is_empty() => {}
                _ => self.wait()?,
            }
        }
    }

    /// Waits until something can be done; takes the client's frames and the command's end.
    fn wait(&mut self) -> Result<(), Gone> {
        let mut watched = Vec::with_capacity(5);
        let mut of_client = PollFlags::RDHUP;
        of_client.set(PollFlags::IN, self.left.is_none() && self.input.waiting().len() < INPUT_LIMIT);
        of_client.set(PollFlags::OUT, !self.output.waiting().is_empty());
        watched.push(PollFd::new(self.client, of_client));
        if let (Some(running), None) = (&self.running, self.left) {
            watched.push(PollFd::new(&self.ended, PollFlags::IN));
            if let Some(input) = running.input.as_ref().filter(|_| !self.input.waiting().is_empty()) {
                watched.push(PollFd::new(input, PollFlags::OUT));
            }
            if self.output.waiting().len() < OUTPUT_LIMIT {
                watched.extend(running.outputs.iter().flatten().map(|output| PollFd::new(output, PollFlags::IN)));
            }
        }
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(Some(format!("poll: {e}"))),
        }
        let client = watched[0].revents();
        let has_ended = watched.get(1).is_some_and(|ended| !ended.revents().is_empty());
        drop(watched);
        if client.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
            return Err(None);
        }
        if client.contains(PollFlags::IN) {
            self.receive()?;
        }
        if has_ended && let Some(running) = &self.running {
            self.left = Some([0, 1].map(|which| rest(running, which)));
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Gone> {
        match recv(self.client, &mut self.scratch[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(None),
            Ok((n, _)) => {
                self.decoder.push(&self.scratch[..n]);
                self.take_frames()
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(e) => Err(Some(e.to_string())),
        }
    }

    fn take_frames(&mut self) -> Result<(), Gone> {
        let Some(running) = &self.running else { return Ok(()) };
        while let Some(frame) = self.decoder.next_frame().map_err(|e| Some(e.to_string()))? {
            match frame {
                Frame::Stdin(_) if !running.takes_input || running.input.is_none() || self.end_of_input => {}
                Frame::Stdin([]) if running.on_terminal => self.input.tail().push(END_OF_FILE),
                Frame::Stdin([]) => self.end_of_input = true,
                Frame::Stdin(data) => self.input.tail().extend_from_slice(data),
                Frame::Resize(size) => {
                    if let Some(master) = running.input.as_ref().filter(|_| running.on_terminal) {
                        // It fails only if the terminal is gone.
                        let _ = command::resize(master, size);
                    }
                }
                Frame::Signal(number) => {
                    if let Some(signal) = Signal::from_named_raw(number.into()) {
                        running.signal(signal);
                    }
                }
                other => return Err(Some(format!("the host sent a frame of the guest: {other:?}"))),
            }
        }
        Ok(())
    }

    /// Writes as much input as the command takes now.
    fn feed(&mut self) {
        let Some(running) = &mut self.running else { return };
        while let Some(input) = &running.input {
            if self.input.waiting().is_empty() {
                if self.end_of_input {
                    running.input = None;
                }
                return;
            }
            match write(input, self.input.waiting()) {
                Ok(n) => self.input.written(n),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The command has closed its input.
                Err(_) => {
                    running.input = None;
                    self.input.clear();
                }
            }
        }
    }

    /// Reads as much output as there is now and may wait for the client, from both outputs in turn.
    fn collect(&mut self) {
        let mut more = true;
        while more && self.output.waiting().len() < OUTPUT_LIMIT {
            more = [0, 1].map(|which| self.collect_from(which)).contains(&true);
        }
    }

    /// Reads a piece of an output; false if there is none now. Closes the output at its end, or once the command has
    /// ended and all of it was read.
    fn collect_from(&mut self, which: usize) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Some(output) = &running.outputs[which] else { return false };
        let most = self.left.map_or(PIECE, |left| left[which].min(PIECE));
        match read(output, &mut self.scratch[..most]) {
            Ok(n) if n > 0 => {
                let data = &self.scratch[..n];
                let frame = if which == 0 { Frame::Stdout(data) } else { Frame::Stderr(data) };
                frame.encode(self.output.tail());
                if let Some(left) = &mut self.left {
                    left[which] -= n;
                }
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) if self.left.is_none() => {}
            // A terminal that no process has open fails (EIO).
            _ => running.outputs[which] = None,
        }
        false
    }

    /// Queues the last frame once the command has ended and its output is read.
    fn conclude(&mut self) {
        let is_read = |running: &mut Running| running.outputs.iter().all(Option::is_none);
        if self.left.is_some()
            && let Some(running) = self.running.take_if(is_read)
        {
            last_frame(running.wait()).encode(self.output.tail());
        }
    }

    /// Sends as much as the client takes now.
    fn flush(&mut self) -> Result<(), Gone> {
        while !self.output.waiting().is_empty() {
            match send(self.client, self.output.waiting(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => self.output.written(n),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(None),
                Err(e) => return Err(Some(e.to_string())),
            }
        }
        Ok(())
    }
}

/// How much of this output a command that has ended can have written. The kernel hangs its terminal up, so that what is
/// there is all.
fn rest(running: &Running, which: usize) -> usize {
    let count = |output| usize::try_from(ioctl_fionread(output).unwrap_or(0)).unwrap_or(usize::MAX);
    if running.on_terminal { usize::MAX } else { running.outputs[which].as_ref().map_or(0, count) }
}

fn last_frame(status: io::Result<ExitStatus>) -> Frame<'static> {
    let (code, signal) = status.map_or((None, None), |status| (status.code(), status.signal()));
    match (code, signal.map(u8::try_from)) {
        (Some(code), _) => Frame::Exit(code),
        (None, Some(Ok(signal))) => Frame::Killed(signal),
        // Not of a process that has ended.
        (None, _) => Frame::Exit(-1),
    }
}
