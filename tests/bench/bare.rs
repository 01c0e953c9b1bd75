//! The references: the same guest booted by QEMU alone, and its vsock without our doors.

use crate::{lab::Lab, wait_for};
use std::{
    fs,
    io::{BufRead, BufReader, IoSlice, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The verb of this program that hands a vsock connection to ssh.
pub const PASS: &str = "pass-descriptor";

/// QEMU and its vsock helper with the arguments that our program gave them, on a copy of the machine's files.
pub struct Bare {
    dir: PathBuf,
    vsock: Vec<String>,
    qemu: Vec<String>,
}

impl Bare {
    /// Learns from the guest that runs.
    pub fn like(lab: &Lab) -> Bare {
        let dir = lab.dir.path().join("bare");
        fs::create_dir(&dir).unwrap();
        let (run, data) = (lab.machine().join("run"), lab.machine().join("data.img"));
        fs::copy(run.join("initrd"), dir.join("initrd")).unwrap();
        // As blank as ours was before its first boot.
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
            words
                .map(there)
                .map(|word| if word.starts_with("user,id=net") { "user,id=net".into() } else { word })
                .collect()
        };
        Bare { vsock: moved(lab.children("vhost-device-vsock")[0]), qemu: moved(lab.qemu()), dir }
    }

    /// From the start of the first process to the first byte of the banner. Powers the guest off afterwards.
    pub fn boot_to_banner(&self) -> Duration {
        for socket in ["vhost-vsock", "vsock", "vsock_2147484672", "qmp"] {
            let _ = fs::remove_file(self.dir.join(socket));
        }
        let monitor = UnixListener::bind(self.dir.join("qmp")).unwrap();
        let ready = UnixListener::bind(self.dir.join("vsock_2147484672")).unwrap();
        let began = Instant::now();
        let mut helper = start(&self.vsock);
        while !self.dir.join("vhost-vsock").exists() {
            sleep(Duration::from_millis(1));
        }
        let mut qemu = start(&self.qemu);
        // The guest dials us when it is ready. Asking it again and again is no way: a connection that meets the guest's
        // driver halfway through its start is never answered.
        let (_agent, _) = ready.accept().unwrap();
        let greeted = dial(&self.dir.join("vsock"), 22).unwrap();
        let mut text = [0; 4];
        (&greeted).read_exact(&mut text).unwrap();
        let took = began.elapsed();
        assert_eq!(&text, b"SSH-");
        drop(greeted);
        power_off(&monitor, &mut qemu);
        let _ = helper.kill();
        let _ = helper.wait();
        took
    }
}

fn start(words: &[String]) -> Child {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn power_off(monitor: &UnixListener, qemu: &mut Child) {
    let (stream, _) = monitor.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let say = |text: &str| (&stream).write_all(text.as_bytes()).unwrap();
    lines.next().unwrap().unwrap();
    say("{\"execute\": \"qmp_capabilities\"}\n");
    wait_for("the reference guest to power off", || {
        let _ = (&stream).write_all(b"{\"execute\": \"system_powerdown\"}\n");
        sleep(Duration::from_millis(300));
        qemu.try_wait().unwrap().is_some()
    });
}

/// A stream to a port of the guest, as vhost-device-vsock offers it.
fn dial(socket: &Path, port: u32) -> std::io::Result<UnixStream> {
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

/// For ssh's `ProxyUseFdpass`: hands it the connection itself, so that nothing stands between ssh and the device.
pub fn pass_descriptor(socket: &Path, port: u32) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let stream = dial(socket, port).unwrap();
    stream.set_read_timeout(None).unwrap();
    let fds = [stream.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(rustix::stdio::stdout(), &[IoSlice::new(b"\0")], &mut ancillary, SendFlags::empty()).unwrap();
}
