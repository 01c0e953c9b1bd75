//! The library of the fake daemon: a list in memory.

use super::Fake;
use dvn_http::library_control::{LibraryChange, LibraryControl};
use dvn_hypervisor::GuestStream;
use dvn_protocol::service::{Answer, Call, Decoder, Exec, Frame, Hello, Reply};
use dvn_types::{
    Arch, Kind, MachineName, Report,
    wire::{Addresses, DiskSpace, GuestOs, Hardware, MachineList, Role, RunRequest, State, Stopped, Vm},
};
use futures_util::future::BoxFuture;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A stopped machine of the library.
pub fn vm(name: &str) -> Vm {
    Vm {
        name: name.parse().unwrap(),
        role: Role::Library,
        state: State::Stopped { last_exit: None },
        waits_for: None,
        hardware: Some(Hardware {
            os: GuestOs::Linux,
            arch: Arch::X86_64,
            cores: 4,
            memory: 4 << 30,
            disk_size: 50_000_000_000,
            disk_format: "raw".to_owned(),
            display: Some("1024x768".to_owned()),
            mac_address: Some("7e:00:00:00:00:01".to_owned()),
            medium: None,
            created_unix_ms: Some(1_700_000_000_000),
            started_unix_ms: Some(1_700_000_060_000),
            directory: Some(format!("/state/machines/{name}")),
        }),
        space: None,
    }
}

impl Fake {
    fn vm(&self, name: &MachineName) -> Result<Vm, Report> {
        let found = self.library.lock().unwrap().iter().find(|vm| vm.name == *name).cloned();
        found.ok_or_else(|| Report::new(Kind::NotFound, format!("there is no machine {name}")))
    }

    fn keep(&self, vm: &Vm) {
        let mut library = self.library.lock().unwrap();
        library.retain(|other| other.name != vm.name);
        library.push(vm.clone());
        library.sort_by(|one, two| one.name.cmp(&two.name));
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Moves a machine of the library to another state.
    pub fn vm_moved(&self, name: &MachineName, state: State) -> Result<(), Report> {
        let vm = self.vm(name)?;
        self.keep(&Vm { state, ..vm });
        Ok(())
    }

    /// Whether a machine is one of the library.
    pub fn has_vm(&self, name: &MachineName) -> bool {
        self.vm(name).is_ok()
    }

    /// Stops a machine of the library. That named `stubborn` only stops by force.
    pub fn stop_vm(&self, name: &MachineName, force: bool) -> Result<Stopped, Report> {
        if self.vm(name)?.state == State::Suspended {
            self.vm_moved(name, State::Stopped { last_exit: None })?;
            return Ok(Stopped { exit: None, discarded: true });
        }
        let exit = Some(if force { "killed" } else { "powered-off" }.to_owned());
        if force || name.as_str() != "stubborn" {
            self.vm_moved(name, State::Stopped { last_exit: exit.clone() })?;
        }
        Ok(Stopped { exit, discarded: false })
    }

    /// Removes a machine of the library, if it is one.
    pub fn forget_vm(&self, name: &MachineName) -> bool {
        let mut library = self.library.lock().unwrap();
        let before = library.len();
        library.retain(|vm| vm.name != *name);
        library.len() < before
    }
}

impl LibraryControl for Fake {
    fn machines(&self, space: bool) -> Result<MachineList, Report> {
        let mut machines = self.library.lock().unwrap().clone();
        machines.push(Vm { role: Role::Builder, ..vm("builder") });
        machines.sort_by(|one, two| one.name.cmp(&two.name));
        for vm in machines.iter_mut().filter(|_| space) {
            vm.space = Some(DiskSpace { own: 2_000_000_000, shared: 6_000_000_000 });
        }
        Ok(MachineList { machines })
    }

    fn machine(&self, name: &MachineName) -> Result<Vm, Report> {
        let mut all = self.machines(true)?.machines.into_iter();
        all.find(|vm| vm.name == *name).map_or_else(|| self.vm(name), Ok)
    }

    fn change(&self, change: LibraryChange) -> Result<Vm, Report> {
        self.called(format!("{change:?}"))?;
        let made = match change {
            LibraryChange::Create(request) => vm(request.name.as_str()),
            LibraryChange::Clone { from, to } => Vm { name: to, ..self.vm(&from)? },
            LibraryChange::Set(name, _) => self.vm(&name)?,
            LibraryChange::Rename { from, to } => {
                let vm = self.vm(&from)?;
                self.forget_vm(&from);
                Vm { name: to, ..vm }
            }
        };
        self.keep(&made);
        Ok(made)
    }

    fn run<'a>(&'a self, machine: &'a MachineName, request: RunRequest) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            self.called(format!("run {machine} {request:?}"))?;
            self.vm_moved(machine, State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 })
        })
    }

    fn suspend<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move {
            self.called(format!("suspend {machine}"))?;
            self.vm_moved(machine, State::Suspended)
        })
    }

    fn addresses<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Addresses, Report>> {
        Box::pin(async move {
            self.vm(machine)?;
            self.called(format!("addresses {machine}"))?;
            Ok(Addresses {
                addresses: vec!["192.168.64.7".to_owned(), "fd00::7".to_owned()],
                source: "agent".to_owned(),
            })
        })
    }

    fn screenshot<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<Vec<u8>, Report>> {
        Box::pin(async move {
            self.vm(machine)?;
            Ok(b"\x89PNG\r\n\x1a\n".to_vec())
        })
    }

    /// An agent that knows a few commands; see [`agent`].
    fn agent<'a>(&'a self, machine: &'a MachineName) -> BoxFuture<'a, Result<GuestStream, Report>> {
        Box::pin(async move {
            self.vm(machine)?;
            self.called(format!("agent {machine}"))?;
            let (ours, theirs) = tokio::io::duplex(4096);
            tokio::spawn(agent(theirs));
            Ok(Box::new(ours) as GuestStream)
        })
    }
}

/// Reads a request and obeys: `cat` sends its input back, `exit N` and `kill N` end so, `await-signal` ends by the first signal,
/// `size` prints the terminal's size as it is then, `show` prints the request, `yes` never ends, and `cat` with files prints the
/// sockets of a guest that listens on port 80.
async fn agent(mut host: DuplexStream) -> io::Result<()> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(host.read_u8().await?);
    }
    let Ok(call) = serde_json::from_slice::<Call>(&line) else {
        return answer(&mut host, &Err("that is no request".to_owned())).await;
    };
    let exec = match call {
        Call::Exec(exec) => exec,
        Call::Hello => {
            let (agent, os) = ("0.1.0".to_owned(), "Fake Linux".to_owned());
            let hello = Hello { version: 1, agent, os, host_name: "fake".to_owned(), kernel: "6.1".to_owned() };
            return answer(&mut host, &Ok(Reply::Hello(hello))).await;
        }
        _ => return answer(&mut host, &Ok(Reply::Done)).await,
    };
    if exec.command == "missing" {
        return answer(&mut host, &Err("there is no program missing in the guest".to_owned())).await;
    }
    answer(&mut host, &Ok(Reply::Started { pid: 77 })).await?;
    if exec.detach {
        return Ok(());
    }
    let number = exec.args.first().and_then(|number| number.parse().ok()).unwrap_or(0);
    match exec.command.as_str() {
        "cat" if !exec.args.is_empty() => {
            let socket = b"0: 00000000:0050 00000000:0000 0A 0 0 0 0 0 1\n";
            host.write_all(&Frame::Stdout(socket).to_bytes()).await?;
        }
        "exit" => return host.write_all(&Frame::Exit(number).to_bytes()).await,
        "kill" => return host.write_all(&Frame::Killed(number.to_le_bytes()[0]).to_bytes()).await,
        "show" => {
            let text = format!("{}\n", serde_json::to_string(&exec).unwrap());
            host.write_all(&Frame::Stdout(text.as_bytes()).to_bytes()).await?;
            host.write_all(&Frame::Stderr(b"shown\n").to_bytes()).await?;
        }
        "yes" => loop {
            host.write_all(&Frame::Stdout(b"y\n").to_bytes()).await?;
        },
        "vanish" => return Ok(()),
        _ => return interact(host, &exec).await,
    }
    host.write_all(&Frame::Exit(0).to_bytes()).await
}

/// Commands that react to what the host sends.
async fn interact(mut host: DuplexStream, exec: &Exec) -> io::Result<()> {
    let (mut decoder, mut bytes) = (Decoder::new(), [0; 1024]);
    host.write_all(&Frame::Stdout(b"ready\n").to_bytes()).await?;
    loop {
        let read = host.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        decoder.push(&bytes[..read]);
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            let answer = match (exec.command.as_str(), frame) {
                ("cat", Frame::Stdin(b"")) => Frame::Exit(0).to_bytes(),
                ("cat", Frame::Stdin(data)) => Frame::Stdout(data).to_bytes(),
                ("await-signal", Frame::Signal(number)) => Frame::Killed(number).to_bytes(),
                ("size", Frame::Resize(size)) => {
                    let text = format!("{}x{}\n", size.rows, size.cols);
                    [Frame::Stdout(text.as_bytes()).to_bytes(), Frame::Exit(0).to_bytes()].concat()
                }
                _ => continue,
            };
            host.write_all(&answer).await?;
        }
    }
}

async fn answer(host: &mut DuplexStream, answer: &Answer) -> io::Result<()> {
    host.write_all(&dvn_protocol::service::line(answer).unwrap()).await
}
