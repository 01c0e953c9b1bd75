//! Settings. The input is the file's text, then flags `--key=value`, variables `NAME=value` and a machine `@name`, one
//! per part.
//!
//! * Accepted settings are within this host's limits, and can be written as an equivalent file.
//! * A refusal has a hint; if the fault is in the file, it names an existing line.

#![no_main]

use darwin_vz_nix_fuzz::{BETWEEN, assert_informative};
use dvn_config::{Config, ConfigError, File, GIB, HostFacts, Key, MAX_DISK, MIN_DISK, MIN_MEMORY, Settings, Sources};
use dvn_types::{Arch, Kind, Report};
use libfuzzer_sys::fuzz_target;
use std::{
    collections::HashSet,
    fmt::Write,
    path::{Path, PathBuf},
};

const FILE: &str = "/etc/darwin-vz-nix/config.toml";
const HOST: HostFacts = HostFacts { cores: 8, memory: 16 * GIB, arch: Some(Arch::Aarch64), rosetta: true, nix: true };

fuzz_target!(|data: &[u8]| {
    let parts: Vec<String> =
        data.split(|byte| *byte == BETWEEN).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    match load(&parts[0], &parts[1..]) {
        Ok(config) => match config.settings(&HOST) {
            Ok(settings) => accepted(&config, &settings),
            Err(error) => refused(error),
        },
        Err(error) => refused(error),
    }
});

fn load(text: &str, rest: &[String]) -> Result<Config, ConfigError> {
    let file = File::parse(Path::new(FILE), text, Some(Path::new("/home/u"))).inspect_err(|error| {
        let message = error.to_string();
        let line = message.strip_prefix(&format!("{FILE}:")).and_then(|rest| rest.split(':').next()?.parse().ok());
        assert!(line.is_some_and(|line: usize| (1..=text.split('\n').count()).contains(&line)), "{message}");
    })?;
    let mut sources = Sources {
        flags: vec![],
        env: vec![],
        file,
        machine: None,
        cwd: "/work".into(),
        home: Some("/home/u".into()),
        default_state_dir: "/state".into(),
    };
    for part in rest {
        if let Some((name, value)) = part.strip_prefix("--").and_then(|flag| flag.split_once('=')) {
            sources.flags.extend(Key::named(name).map(|key| (key, value.to_owned())));
        } else if let Some(name) = part.strip_prefix('@') {
            sources.machine = name.parse().ok();
        } else if let Some((name, value)) = part.split_once('=') {
            sources.env.push((name.to_owned(), value.to_owned()));
        }
    }
    Config::load(sources)
}

fn refused(error: ConfigError) {
    let report = Report::from(error);
    assert_informative(&report);
    assert!(matches!(report.kind, Kind::Config | Kind::NotFound) && !report.hints.is_empty(), "{report:?}");
}

fn accepted(config: &Config, settings: &Settings) {
    assert!(!settings.machines.is_empty());
    assert!(settings.api_listen.is_none_or(|address| address.ip().is_loopback()));
    let mut addresses: HashSet<_> = settings.api_listen.into_iter().filter(|address| address.port() != 0).collect();
    for machine in settings.machines.values() {
        assert!((1..=HOST.cores).contains(&machine.hardware.cores), "{machine:?}");
        assert!((MIN_MEMORY..=HOST.memory).contains(&machine.hardware.memory), "{machine:?}");
        assert!((MIN_DISK..=MAX_DISK).contains(&machine.builder.disk_size), "{machine:?}");
        assert!(machine.builder.listen.ip().is_loopback() && !machine.lifecycle.boot_timeout.is_zero(), "{machine:?}");
        assert!(machine.builder.listen.port() == 0 || addresses.insert(machine.builder.listen), "{machine:?}");
        let paths = [&machine.builder.bundle, &machine.builder.recipe, &machine.builder.nix].into_iter().flatten();
        let paths: Vec<&PathBuf> = paths.chain([&machine.builder.store_dir, &machine.builder.store_daemon]).collect();
        assert!(paths.iter().all(|path| path.is_absolute()), "{machine:?}");
    }
    assert!(settings.state_dir.is_absolute());
    let written = written(config);
    let again = load(&written, &[]).unwrap_or_else(|error| panic!("{error} in\n{written}"));
    assert_eq!(again.settings(&HOST).as_ref().ok(), Some(settings), "\n{written}");
    assert_eq!(again.log_level(), config.log_level().or(Some("info")), "\n{written}");
}

/// All settings as a file.
fn written(config: &Config) -> String {
    let view = config.shown(&HOST).unwrap_or_else(|error| panic!("{error}"));
    let tables = view.machines.iter().map(|(name, settings)| (format!("[machines.{name}]\n"), settings));
    let mut text = String::new();
    for (heading, settings) in std::iter::once((String::new(), &view.daemon)).chain(tables) {
        text += &heading;
        for (key, setting) in settings.iter().filter(|(_, setting)| setting.value != "-") {
            let _ = writeln!(text, "{key} = {}", toml::Value::from(setting.value.as_str()));
        }
    }
    text
}
