//! Settings: flags over environment (`DARWIN_VZ_NIX_*`) over the TOML file over defaults, checked against this host.
//!
//! ```text
//! flags ──┐                                         HostFacts
//! env   ──┼─▶ Layer (some values, each with its Origin) ─▶ Complete (all values) ─▶ checks ─▶ Settings
//! file  ──┘                                         defaults
//! ```
//!
//! Every source is parsed completely, also values that another source overrides, so all mistakes are reported. Every
//! error names the flag, the variable, or the file and line. This crate does not read the environment: the caller
//! passes it in [`Sources`].

#[macro_use]
mod declare;
mod check;
mod error;
mod file;
mod host;
mod origin;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use check::{MAX_DISK, MIN_DISK, MIN_MEMORY, range, start as check_start};
pub use error::ConfigError;
pub use file::File;
pub use host::{HostFacts, system};
pub use origin::{Origin, Sourced};
pub use table::{BuilderConfig, Complete, ENV_PREFIX, HardwareConfig, Key, Layer, LifecyclePolicy, MachineConfig};
pub use value::{GIB, MIB, Raw, Setting, Size};

use dvn_types::{
    Arch, MachineName, Report, Sizes,
    wire::{ConfigView, SettingView},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use value::Base;

/// Variables with [`ENV_PREFIX`] that are not settings: the command line reads them itself.
pub const ENV_OF_THE_CLI: [&str; 2] = ["DARWIN_VZ_NIX_CONFIG", "DARWIN_VZ_NIX_MACHINE"];

/// The machine that exists if the file has none, and that is chosen if none is given.
pub const DEFAULT_MACHINE: &str = "builder";

/// The daemon's settings, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The state directory; absolute.
    pub state_dir: PathBuf,
    /// The loopback address of the API on TCP, if any.
    pub api_listen: Option<SocketAddr>,
    /// The machines, by name. Never empty.
    pub machines: BTreeMap<MachineName, MachineConfig>,
}

/// The sources of settings.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Flags, as text.
    pub flags: Vec<(Key, String)>,
    /// Environment variables. Only those with [`ENV_PREFIX`] are used. An empty one counts as unset.
    pub env: Vec<(String, String)>,
    /// The file.
    pub file: File,
    /// The machine that flags and variables apply to; otherwise [`DEFAULT_MACHINE`], or the only one.
    pub machine: Option<MachineName>,
    /// The base of relative paths in flags and variables; absolute.
    pub cwd: PathBuf,
    /// The directory for `~/`.
    pub home: Option<PathBuf>,
    /// The default state directory; absolute.
    pub default_state_dir: PathBuf,
}

/// The given settings: merged, but neither complete nor checked, since both need the host's facts.
#[derive(Clone, Debug)]
pub struct Config {
    top: Layer,
    machines: BTreeMap<MachineName, Layer>,
    chosen: Option<MachineName>,
    default_state_dir: PathBuf,
}

impl Config {
    /// Merges the sources.
    pub fn load(sources: Sources) -> Result<Config, ConfigError> {
        let given = given(&sources)?;
        let Sources { file, machine, default_state_dir, .. } = sources;
        let mut machines = file.machines;
        if machines.is_empty() {
            let name = DEFAULT_MACHINE.parse().map_err(|why| ConfigError::BadName { origin: Origin::Default, why })?;
            machines.insert(name, Layer::default());
        }
        let chosen = choose(&machines, machine)?;
        let daemon = Layer {
            state_dir: given.state_dir.clone(),
            log_level: given.log_level.clone(),
            api_listen: given.api_listen.clone(),
            ..Layer::default()
        };
        let own = Layer { state_dir: None, log_level: None, api_listen: None, ..given };
        match chosen.as_ref().and_then(|name| machines.get_mut(name)) {
            Some(layer) => *layer = own.over(layer),
            None if own.is_empty() => {}
            None => return Err(ambiguous(&machines)),
        }
        Ok(Config { top: daemon.over(&file.top), machines, chosen, default_state_dir })
    }

    /// The names of the machines.
    pub fn names(&self) -> impl Iterator<Item = &MachineName> {
        self.machines.keys()
    }

    /// The machine that a command applies to.
    pub fn chosen(&self) -> Result<&MachineName, ConfigError> {
        self.chosen.as_ref().ok_or_else(|| ambiguous(&self.machines))
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.top.state_dir.as_ref().map_or_else(|| self.default_state_dir.clone(), |dir| dir.value.0.clone())
    }

    /// The address of the HTTP API on TCP, if given.
    pub fn api_listen(&self) -> Option<SocketAddr> {
        self.top.api_listen.as_ref().and_then(|address| address.value.0)
    }

    /// The log level, if given.
    pub fn log_level(&self) -> Option<&str> {
        self.top.log_level.as_ref().map(|level| level.value.0.as_str())
    }

    /// Every machine's settings with their origins, checked.
    pub fn complete(&self, host: &HostFacts) -> Result<BTreeMap<MachineName, Complete>, ConfigError> {
        let mut machines = BTreeMap::new();
        for (name, layer) in &self.machines {
            let complete = layer.over(&self.top).complete(Complete::defaults(host, &self.default_state_dir));
            check::machine(&complete, host)?;
            machines.insert(name.clone(), complete);
        }
        if let Some(address) = &self.top.api_listen {
            check::api_listen(address, &machines)?;
        }
        check::together(&machines)?;
        Ok(machines)
    }

    /// The daemon's settings: complete and checked.
    pub fn settings(&self, host: &HostFacts) -> Result<Settings, ConfigError> {
        let machines =
            self.complete(host)?.into_iter().map(|(name, complete)| (name, MachineConfig::from(&complete))).collect();
        Ok(Settings { state_dir: self.state_dir(), api_listen: self.api_listen(), machines })
    }

    /// Every setting with its value and origin, for display and the API; checked.
    pub fn shown(&self, host: &HostFacts) -> Result<ConfigView, ConfigError> {
        let mut view = ConfigView::default();
        for (name, complete) in self.complete(host)? {
            for (key, value, origin) in complete.rows() {
                let setting = SettingView { value, origin: origin.to_string() };
                let place =
                    if key.of_a_machine() { view.machines.entry(name.clone()).or_default() } else { &mut view.daemon };
                place.insert(key.name().to_owned(), setting);
            }
        }
        Ok(view)
    }
}

/// Flags, merged over the environment.
fn given(sources: &Sources) -> Result<Layer, ConfigError> {
    let base = Base { dir: sources.cwd.clone(), home: sources.home.clone() };
    let mut env = Layer::default();
    for (name, value) in &sources.env {
        if !name.starts_with(ENV_PREFIX) || ENV_OF_THE_CLI.contains(&name.as_str()) || value.is_empty() {
            continue;
        }
        match Key::ALL.into_iter().find(|key| key.env() == *name) {
            Some(key) => set(&mut env, key, value, Origin::Env(name.clone()), &base)?,
            None => {
                let names: Vec<String> = Key::ALL.iter().map(|key| key.env()).collect();
                let known = names.iter().map(String::as_str).chain(ENV_OF_THE_CLI);
                return Err(ConfigError::UnknownVariable {
                    name: name.clone(),
                    nearest: nearest_variable(name, known),
                });
            }
        }
    }
    let mut flags = Layer::default();
    for (key, value) in &sources.flags {
        set(&mut flags, *key, value, Origin::Flag(key.name().to_owned()), &base)?;
    }
    Ok(flags.over(&env))
}

/// The sizes that the flags of a start give, checked.
pub fn start_request(flags: &[(Key, String)], host: &HostFacts) -> Result<Sizes, Report> {
    let base = Base { dir: PathBuf::from("/"), home: None };
    let mut layer = Layer::default();
    for (key, value) in flags {
        set(&mut layer, *key, value, Origin::Flag(key.name().to_owned()), &base)?;
    }
    let request = Sizes {
        cores: layer.cores.map(|cores| cores.value.0),
        memory: layer.memory.map(|memory| memory.value.0),
        disk_size: layer.disk_size.map(|size| size.value.0),
    };
    check_start(&request, host)?;
    Ok(request)
}

/// Parses a value that was given as text.
fn set(layer: &mut Layer, key: Key, text: &str, origin: Origin, base: &Base) -> Result<(), ConfigError> {
    let raw = Raw::Text(text.to_owned());
    layer.set(key, &raw, origin.clone(), base).map_err(|instead| ConfigError::Unclear {
        origin,
        key,
        given: raw.to_string(),
        instead,
    })
}

/// Compares without the prefix, since the common prefix would make all names similar.
fn nearest_variable<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let bare = |name: &'a str| name.strip_prefix(ENV_PREFIX).unwrap_or(name);
    error::nearest(name.strip_prefix(ENV_PREFIX).unwrap_or(name), known.map(bare))
        .map(|near| format!("{ENV_PREFIX}{near}"))
}

/// The given machine; else `builder`; else the only one; else none.
fn choose(
    machines: &BTreeMap<MachineName, Layer>,
    named: Option<MachineName>,
) -> Result<Option<MachineName>, ConfigError> {
    if let Some(name) = named {
        return match machines.contains_key(&name) {
            true => Ok(Some(name)),
            false => {
                let nearest = error::nearest(name.as_str(), machines.keys().map(MachineName::as_str));
                Err(ConfigError::NoSuchMachine { name: name.to_string(), known: names(machines), nearest })
            }
        };
    }
    let builder = machines.keys().find(|name| name.as_str() == DEFAULT_MACHINE);
    Ok(builder.or(machines.keys().next().filter(|_| machines.len() == 1)).cloned())
}

fn ambiguous(machines: &BTreeMap<MachineName, Layer>) -> ConfigError {
    ConfigError::Ambiguous { known: names(machines) }
}

fn names(machines: &BTreeMap<MachineName, Layer>) -> String {
    machines.keys().map(MachineName::as_str).collect::<Vec<_>>().join(", ")
}

/// The default of a setting, for the reference; `None` if it depends on the host.
pub fn default_value(key: Key) -> Option<String> {
    let small = HostFacts { cores: 2, memory: 4 * GIB, arch: None, rosetta: false, nix: false };
    let large = HostFacts { cores: 64, memory: 256 * GIB, arch: Some(Arch::Aarch64), rosetta: true, nix: true };
    let of = |host: &HostFacts, state_dir: &str| {
        let complete = Complete::defaults(host, Path::new(state_dir));
        complete.rows().into_iter().find(|(other, ..)| *other == key).map(|(_, value, _)| value)
    };
    of(&small, "/a").filter(|value| of(&large, "/b").as_ref() == Some(value))
}
