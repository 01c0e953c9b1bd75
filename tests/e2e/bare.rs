//! The references: the same guest booted with QEMU alone, and its vsock without our daemon.

use crate::lab::{Lab, wait};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The socket of the helper for the port that the guest's agent dials.
const AGENT: &str = "vsock_2147484672";

/// QEMU and its vsock helper with the arguments that our program gave them, on a copy of the machine's files.
pub struct Bare {
    dir: PathBuf,
    vsock: Vec<String>,
    qemu: Vec<String>,
}

impl Bare {
    /// Takes the arguments from the running guest.
    pub fn like(lab: &Lab) -> Bare {
        let dir = lab.dir.path().join("bare");
        fs::create_dir(&dir).unwrap();
        let (run, data) = (lab.machine().join("run"), lab.machine().join("data.img"));
        fs::copy(run.join("initrd"), dir.join("initrd")).unwrap();
        // As blank as ours before its first boot.
        fs::File::create(dir.join("data.img")).unwrap().set_len(fs::metadata(&data).unwrap().len()).unwrap();
        let moved = |pid: u32| -> Vec<String> {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            let words = String::from_utf8(line).unwrap();
            let words = words.trim_end_matches('\0').split('\0');
            let there = |word: &str| {
                let word = word.replace(run.to_str().unwrap(), dir.to_str().unwrap());
                word.replace(data.to_str().unwrap(), dir.join("data.img").to_str().unwrap())
            };
            // The port forward belongs to our own machine.
            let without_forward = |word: String| match word.starts_with("user,id=") {
                true => word.split(',').take(2).collect::<Vec<_>>().join(","),
                false => word,
            };
            words.map(there).map(without_forward).collect()
        };
        Bare { vsock: moved(lab.children("vhost-device-vsock")[0]), qemu: moved(lab.qemu()), dir }
    }

    /// From the start of the first process to the first byte of the banner. Powers the guest off afterwards.
    pub fn boot_to_banner(&self) -> Duration {
        let began = Instant::now();
        let mut running = self.boot();
        let greeted = dial(&self.dir.join("vsock"), 22).unwrap();
        let mut text = [0; 4];
        (&greeted).read_exact(&mut text).unwrap();
        let took = began.elapsed();
        assert_eq!(&text, b"SSH-");
        drop(greeted);
        wait("the reference guest to power off", || {
            running.press_power_button();
            sleep(Duration::from_millis(300));
            running.is_off()
        });
        took
    }

    /// Starts both and waits until the guest has dialled. Polling does not work: a connection that reaches the guest's
    /// driver in the middle of its start is never answered.
    pub fn boot(&self) -> Running {
        for socket in ["vhost-vsock", "vsock", AGENT, "qmp"] {
            let _ = fs::remove_file(self.dir.join(socket));
        }
        let monitor = UnixListener::bind(self.dir.join("qmp")).unwrap();
        let agent = UnixListener::bind(self.dir.join(AGENT)).unwrap();
        let helper = start(&self.vsock);
        while !self.dir.join("vhost-vsock").exists() {
            sleep(Duration::from_millis(1));
        }
        let qemu = start(&self.qemu);
        Running { monitor: handshake(&monitor), agent: agent.accept().unwrap().0, helper, qemu }
    }

    /// The guest's data disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("data.img")
    }
}

/// A running guest, until dropped.
pub struct Running {
    monitor: UnixStream,
    agent: UnixStream,
    helper: Child,
    qemu: Child,
}

impl Running {
    /// The first line of the agent: it is ready.
    pub fn ready(&self) -> String {
        let mut line = String::new();
        BufReader::new(&self.agent).read_line(&mut line).unwrap();
        line
    }

    /// One press.
    pub fn press_power_button(&self) {
        let _ = (&self.monitor).write_all(b"{\"execute\": \"system_powerdown\"}\n");
    }

    pub fn is_off(&mut self) -> bool {
        self.qemu.try_wait().unwrap().is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in [&mut self.qemu, &mut self.helper] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// QEMU's monitor, ready for commands.
fn handshake(monitor: &UnixListener) -> UnixStream {
    let (stream, _) = monitor.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    lines.next().unwrap().unwrap();
    (&stream).write_all(b"{\"execute\": \"qmp_capabilities\"}\n").unwrap();
    lines.next().unwrap().unwrap();
    stream
}

fn start(words: &[String]) -> Child {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// A stream to a port of the guest, through vhost-device-vsock.
pub fn dial(socket: &Path, port: u32) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    (&stream).write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut byte = [0];
    loop {
        (&stream).read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(stream);
        }
    }
}
