//! The context of a command: environment, directories, and the settings that they determine.

use crate::global::Global;
use dvn_client::Client;
use dvn_config::{Config, File, HostFacts, Key, Settings, Sources};
use dvn_types::{Kind, MachineName, Report};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

const NAME: &str = "darwin-vz-nix";

/// The context of a command.
#[derive(Debug)]
pub struct Context {
    /// Flags of every verb.
    pub global: Global,
    /// The settings, not yet checked against the host.
    pub config: Config,
    /// The search path for programs: `PATH`.
    pub search_path: OsString,
    /// The environment variables for the host's `nix`.
    pub nix_environment: Vec<(OsString, OsString)>,
    /// The kind of terminal: `TERM`.
    pub terminal: Option<String>,
    /// The configuration file that was given, as an absolute path.
    named_config: Option<PathBuf>,
    cwd: PathBuf,
    home: Option<PathBuf>,
}

/// The environment, read once.
pub struct Environment {
    variables: BTreeMap<String, String>,
    cwd: PathBuf,
    root: bool,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Result<Environment, Report> {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let cwd = std::env::current_dir().map_err(|error| {
            Report::new(Kind::Host, format!("the working directory is gone: {error}"))
                .hint("change to an existing directory")
        })?;
        Ok(Environment {
            variables: std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect(),
            cwd,
            root: rustix::process::geteuid().is_root(),
        })
    }

    /// A variable, if it is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The state directory, if a flag or variable gives it.
    pub fn given_state_dir(&self, global: &Global) -> Option<PathBuf> {
        let given = global.state_dir.as_deref().or_else(|| self.variable("DARWIN_VZ_NIX_STATE_DIR"));
        // The settings expand `~`.
        given.filter(|dir| !dir.starts_with('~')).map(|dir| self.cwd.join(dir))
    }

    /// The machine, if a flag or variable gives it.
    pub fn given_machine(&self, global: &Global) -> Result<Option<MachineName>, Report> {
        match (&global.machine, self.variable("DARWIN_VZ_NIX_MACHINE")) {
            (Some(name), _) => Ok(Some(name.clone())),
            (None, Some(name)) => {
                name.parse().map(Some).map_err(|why| Report::new(Kind::Config, format!("DARWIN_VZ_NIX_MACHINE: {why}")))
            }
            (None, None) => Ok(None),
        }
    }

    fn home(&self) -> Option<&Path> {
        self.variable("HOME").map(Path::new).filter(|home| home.is_absolute())
    }

    /// A directory of the XDG base directory specification. Relative paths are ignored, as it requires.
    fn xdg(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let given = self.variable(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
        given.or_else(|| Some(self.home()?.join(below_home))).map(|dir| dir.join(NAME))
    }

    fn default_config_file(&self) -> Option<PathBuf> {
        let dir = if self.root { Some(Path::new("/etc").join(NAME)) } else { self.xdg("XDG_CONFIG_HOME", ".config") };
        dir.map(|dir| dir.join("config.toml"))
    }

    fn default_state_dir(&self) -> Option<PathBuf> {
        if self.root { Some(Path::new("/var/lib").join(NAME)) } else { self.xdg("XDG_STATE_HOME", ".local/state") }
    }
}

impl Context {
    /// Reads environment and file. `flags` are the settings from the verb's flags.
    pub fn new(global: Global, mut flags: Vec<(Key, String)>) -> Result<Context, Report> {
        let environment = Environment::read()?;
        let named = global.config.clone().or_else(|| environment.variable("DARWIN_VZ_NIX_CONFIG").map(PathBuf::from));
        let named_config = named.map(|path| environment.cwd.join(path));
        let search_path = environment.variable("PATH").unwrap_or_default().into();
        let nix_environment =
            dvn_generations::environment(environment.variables.iter().map(|(n, v)| (n.into(), v.into())));
        let file = match (&named_config, environment.default_config_file()) {
            (Some(path), _) => File::read(path, true, environment.home())?,
            (None, Some(path)) => File::read(&path, false, environment.home())?,
            (None, None) => File::default(),
        };
        flags.extend(global.state_dir.clone().map(|dir| (Key::StateDir, dir)));
        flags.extend(global.log_level.clone().map(|level| (Key::LogLevel, level)));
        let default_state_dir = match (environment.default_state_dir(), environment.given_state_dir(&global)) {
            (Some(dir), _) | (None, Some(dir)) => dir,
            (None, None) => {
                let report = Report::new(Kind::Config, "HOME is not set, so there is no default state directory");
                return Err(report.hint("set HOME, or give a directory with --state-dir"));
            }
        };
        let (cwd, home) = (environment.cwd.clone(), environment.home().map(Path::to_owned));
        let terminal = environment.variable("TERM").map(str::to_owned);
        let config = Config::load(Sources {
            machine: environment.given_machine(&global)?,
            home: environment.home().map(Path::to_owned),
            env: environment.variables.into_iter().collect(),
            cwd: environment.cwd,
            flags,
            file,
            default_state_dir,
        })?;
        Ok(Context { global, config, search_path, nix_environment, terminal, named_config, cwd, home })
    }

    /// The machine that the command applies to.
    pub fn machine(&self) -> Result<MachineName, Report> {
        Ok(self.config.chosen()?.clone())
    }

    /// The machine that a verb's NAME gives, which need not be in the configuration. Without a NAME, that of `--machine`.
    pub fn named_or_chosen(&self, name: Option<&MachineName>) -> Result<MachineName, Report> {
        match (name, &self.global.machine) {
            (Some(name), Some(other)) if name != other => {
                let report =
                    Report::new(Kind::Config, format!("two machines are given: {name}, and {other} by --machine"));
                Err(report.hint("leave one of them out"))
            }
            (Some(name), _) => Ok(name.clone()),
            (None, _) => self.machine(),
        }
    }

    /// An absolute path for the daemon, whose working directory is another one. `~/` is the home directory, since a shell expands it
    /// only at the start of a word.
    pub fn absolute(&self, path: &str) -> Result<String, Report> {
        let path = match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.cwd.join(path),
        };
        // Without the parts `.`.
        let path: PathBuf = path.components().collect();
        path.into_os_string().into_string().map_err(|path| {
            Report::new(Kind::Config, format!("the path {} is not UTF-8, which the API requires", path.display()))
                .hint("use a path of UTF-8 characters")
        })
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.config.state_dir()
    }

    /// A client of the state directory's daemon.
    pub fn client(&self) -> Client {
        Client::new(&self.state_dir())
    }

    /// The settings, checked against this host.
    pub fn settings(&self) -> Result<Settings, Report> {
        Ok(self.config.settings(&HostFacts::gather())?)
    }

    /// The flags with which another process of this program selects the same daemon and machine. It inherits variables.
    pub fn flags(&self) -> Vec<OsString> {
        let mut flags = self.daemon_flags();
        flags.extend(flag("--machine", self.global.machine.as_ref().map(|name| name.as_str().into())));
        flags.extend(flag("--log-level", self.global.log_level.clone().map(Into::into)));
        flags
    }

    /// The flags with which another process of this program selects the same daemon from any working directory.
    pub fn daemon_flags(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = vec!["--state-dir".into(), self.state_dir().into()];
        flags.extend(flag("--config", self.named_config.clone().map(Into::into)));
        flags
    }
}

fn flag(name: &str, value: Option<OsString>) -> impl Iterator<Item = OsString> {
    value.map(|value| [name.into(), value]).into_iter().flatten()
}

/// The path of this program.
pub fn this_program() -> Result<PathBuf, Report> {
    std::env::current_exe()
        .map_err(|error| Report::new(Kind::Host, format!("cannot find the path of this program: {error}")))
}
