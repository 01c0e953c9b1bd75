//! Checks values against their ranges and the host. Pure: the host's facts are passed in.

use super::{
    error::ConfigError,
    host::HostFacts,
    origin::{Origin, Sourced},
    table::{Complete, Key},
    value::{GIB, Listen, MIB, MaybeListen, Size, TIB},
};
use dvn_host::naming;
use dvn_types::{MachineName, Report, Sizes};
use std::{collections::BTreeMap, fmt::Display};

/// Smallest memory with which a guest boots, in bytes.
pub const MIN_MEMORY: u64 = 256 * MIB;
/// Smallest data disk in bytes.
pub const MIN_DISK: u64 = GIB;
/// Largest data disk in bytes. A larger value is considered a typo.
pub const MAX_DISK: u64 = 64 * TIB;

/// A setting's range, for the reference.
pub fn range(key: Key) -> Option<String> {
    match key {
        Key::StateDir => Some(format!(
            "letters, digits and `{}` only, since Nix and ssh misread others; at most about 70 bytes",
            naming::FINE
        )),
        Key::Cores => Some("1 to the number of the host's processors".to_owned()),
        Key::Memory => Some(format!("`{}` to the host's memory", Size(MIN_MEMORY))),
        Key::DiskSize => Some(format!("`{}` to `{}`; a disk can grow, not shrink", Size(MIN_DISK), Size(MAX_DISK))),
        Key::Listen | Key::ApiListen => Some("a loopback address that no other setting has".to_owned()),
        Key::Rosetta => Some("`true` only on Apple silicon with macOS".to_owned()),
        Key::BootTimeout => Some("more than 0".to_owned()),
        _ => None,
    }
}

fn unfit<T: Display>(key: Key, given: &Sourced<T>, why: String, instead: impl Into<String>) -> ConfigError {
    ConfigError::Unfit {
        origin: given.origin.clone(),
        key,
        given: given.value.to_string(),
        why,
        instead: instead.into(),
    }
}

fn cores(cores: &Sourced<u32>, host: &HostFacts) -> Result<(), ConfigError> {
    match cores.value {
        0 => Err(unfit(Key::Cores, cores, "a guest needs a processor".to_owned(), "give 1 or more")),
        n if n > host.cores => Err(unfit(
            Key::Cores,
            cores,
            format!("this computer has {}", host.cores),
            format!("give 1 to {}", host.cores),
        )),
        _ => Ok(()),
    }
}

fn memory(memory: &Sourced<Size>, host: &HostFacts) -> Result<(), ConfigError> {
    // The host's total is not a round number, so show it rounded down.
    let most = Size(host.memory / MIB * MIB);
    match memory.value.0 {
        n if n < MIN_MEMORY => {
            Err(unfit(Key::Memory, memory, format!("a guest needs {} at least", Size(MIN_MEMORY)), "give 1G or more"))
        }
        n if n > host.memory => {
            Err(unfit(Key::Memory, memory, format!("this computer has {most}"), format!("give less than {most}")))
        }
        _ => Ok(()),
    }
}

fn disk(disk: &Sourced<Size>) -> Result<(), ConfigError> {
    match disk.value.0 {
        n if n < MIN_DISK => Err(unfit(
            Key::DiskSize,
            disk,
            format!("less than {} holds no build", Size(MIN_DISK)),
            "give a size such as 100G",
        )),
        n if n > MAX_DISK => Err(unfit(
            Key::DiskSize,
            disk,
            format!("more than {} cannot be meant", Size(MAX_DISK)),
            "give a size such as 100G",
        )),
        _ => Ok(()),
    }
}

fn listen(listen: &Sourced<Listen>) -> Result<(), ConfigError> {
    if listen.value.0.ip().is_loopback() {
        return Ok(());
    }
    let instead = format!("give 127.0.0.1:{} or [::1]:{0}", listen.value.0.port());
    Err(unfit(Key::Listen, listen, "that would let other computers in".to_owned(), instead))
}

/// Checks the API's address on TCP.
pub fn api_listen(given: &Sourced<MaybeListen>, machines: &BTreeMap<MachineName, Complete>) -> Result<(), ConfigError> {
    let Some(address) = given.value.0 else { return Ok(()) };
    let instead = |port: u16| format!("give 127.0.0.1:{port} or [::1]:{port}");
    if !address.ip().is_loopback() {
        let why = "that would let other computers in".to_owned();
        return Err(unfit(Key::ApiListen, given, why, instead(address.port())));
    }
    match machines.iter().find(|(_, settings)| address.port() != 0 && settings.listen.value.0 == address) {
        Some((name, _)) => {
            let why = format!("the machine {name} listens there for ssh clients");
            Err(unfit(Key::ApiListen, given, why, instead(31_180)))
        }
        None => Ok(()),
    }
}

/// Checks one machine's settings.
pub fn machine(settings: &Complete, host: &HostFacts) -> Result<(), ConfigError> {
    cores(&Sourced { value: settings.cores.value.0, origin: settings.cores.origin.clone() }, host)?;
    memory(&settings.memory, host)?;
    disk(&settings.disk_size)?;
    listen(&settings.listen)?;
    if settings.rosetta.value.0 && !host.rosetta {
        let why = "Rosetta exists only on Apple silicon with macOS".to_owned();
        return Err(unfit(Key::Rosetta, &settings.rosetta, why, "leave rosetta out"));
    }
    if settings.boot_timeout.value.0.is_zero() {
        return Err(unfit(
            Key::BootTimeout,
            &settings.boot_timeout,
            "no boot takes no time".to_owned(),
            "give 180 or so",
        ));
    }
    Ok(())
}

/// Checks the machines against each other.
pub fn together(machines: &BTreeMap<MachineName, Complete>) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<std::net::SocketAddr, &MachineName> = BTreeMap::new();
    for (name, settings) in machines {
        let address = settings.listen.value.0;
        // Port 0 means any free port, so it never conflicts.
        if address.port() == 0 {
            continue;
        }
        if let Some(first) = taken.insert(address, name) {
            return Err(ConfigError::SharedAddress {
                first: first.to_string(),
                second: name.to_string(),
                address: address.to_string(),
                origin: settings.listen.origin.clone(),
            });
        }
    }
    Ok(())
}

/// Checks the sizes that a start requests in place of the configured ones.
pub fn start(request: &Sizes, host: &HostFacts) -> Result<(), Report> {
    let flag = |key: Key| Origin::Flag(key.name().to_owned());
    if let Some(value) = request.cores {
        cores(&Sourced { value, origin: flag(Key::Cores) }, host)?;
    }
    if let Some(bytes) = request.memory {
        memory(&Sourced { value: Size(bytes), origin: flag(Key::Memory) }, host)?;
    }
    if let Some(bytes) = request.disk_size {
        disk(&Sourced { value: Size(bytes), origin: flag(Key::DiskSize) })?;
    }
    Ok(())
}
