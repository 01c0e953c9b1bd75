//! The values of settings: their formats, parsers and display. A parser's error says which values are valid.

use dvn_hypervisor::Backend;
use std::{
    fmt,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// One KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB in bytes.
pub const GIB: u64 = 1 << 30;
/// One TiB in bytes.
pub const TIB: u64 = 1 << 40;

/// A value before parsing. Flags and variables are text; the file also has numbers and booleans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A boolean.
    Boolean(bool),
    /// A type that no setting accepts: a description of it.
    Unfit(&'static str),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Text(text) => write!(f, "{text:?}"),
            Raw::Integer(number) => write!(f, "{number}"),
            Raw::Boolean(switch) => write!(f, "{switch}"),
            Raw::Unfit(what) => f.write_str(what),
        }
    }
}

/// The base of relative paths.
#[derive(Clone, Debug)]
pub struct Base {
    /// The working directory for flags and variables, the file's own directory for the file.
    pub dir: PathBuf,
    /// The directory for `~/`.
    pub home: Option<PathBuf>,
}

/// A kind of value.
pub trait Setting: Sized + fmt::Display {
    /// The format, for the reference.
    const FORM: &'static str;
    /// All possible values, if they are few.
    const CHOICES: &'static [&'static str] = &[];
    /// The value of its flag without a value; `None` if the flag requires one.
    const BARE_FLAG: Option<&'static str> = None;
    /// Parses it. The error says which values are valid, as in "give …".
    fn read(raw: &Raw, base: &Base) -> Result<Self, String>;
}

/// A number of processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores(pub u32);

impl Setting for Cores {
    const FORM: &'static str = "a whole number";

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        let number = match raw {
            Raw::Integer(number) => u32::try_from(*number).ok(),
            Raw::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.map(Cores).ok_or_else(|| "give a whole number, such as 4".to_owned())
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size in bytes. Its formats: `8G`, `1.5G`, `512MiB` (powers of two), `8GB` (powers of ten) or a bare number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Setting for Size {
    const FORM: &'static str =
        "a size such as `8G`, `1.5G` or `512MiB` (powers of two) or `8GB` (powers of ten), or a number of MiB";

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        match raw {
            Raw::Integer(mib) => u64::try_from(*mib).ok().and_then(|mib| mib.checked_mul(MIB)).map(Size),
            Raw::Text(text) => size(text),
            _ => None,
        }
        .ok_or_else(|| GIVE_A_SIZE.to_owned())
    }
}

const GIVE_A_SIZE: &str = "give a size such as 8G or 512M, or a number of MiB";

/// For flags that are no settings.
impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        size(text).ok_or_else(|| GIVE_A_SIZE.to_owned())
    }
}

fn size(text: &str) -> Option<Size> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "ki" | "kib" => KIB,
        "" | "m" | "mi" | "mib" => MIB,
        "g" | "gi" | "gib" => GIB,
        "t" | "ti" | "tib" => TIB,
        "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Nine places are more precise than a byte in a gigabyte, so more of them are a mistake.
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let part = match fraction {
        "" => 0,
        places => {
            u128::from(places.parse::<u64>().ok()?) * u128::from(unit) / 10u128.pow(u32::try_from(places.len()).ok()?)
        }
    };
    whole.checked_add(u64::try_from(part).ok()?).map(Size)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0M"),
            n if n % TIB == 0 => write!(f, "{}T", n / TIB),
            n if n % GIB == 0 => write!(f, "{}G", n / GIB),
            n if n % MIB == 0 => write!(f, "{}M", n / MIB),
            n if n % KIB == 0 => write!(f, "{}K", n / KIB),
            n => write!(f, "{n}B"),
        }
    }
}

fn duration(raw: &Raw, unit: u64) -> Option<Duration> {
    let bare = |number: u64| number.checked_mul(unit).map(Duration::from_secs);
    match raw {
        Raw::Integer(number) => u64::try_from(*number).ok().and_then(bare),
        Raw::Text(text) => match text.trim().parse::<u64>() {
            Ok(number) => bare(number),
            Err(_) => humantime::parse_duration(text.trim()).ok(),
        },
        _ => None,
    }
    // At most a century, so that adding it to a time cannot overflow.
    .filter(|duration| duration.as_secs() < 100 * 365 * 24 * 3600)
}

/// An optional duration; 0 means none.
fn duration_or_never(raw: &Raw, unit: u64) -> Option<Option<Duration>> {
    duration(raw, unit).map(|time| (!time.is_zero()).then_some(time))
}

fn write_duration_or_never(time: Option<Duration>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match time {
        None => f.write_str("0"),
        Some(time) => write!(f, "{}", humantime::format_duration(time)),
    }
}

/// An idle timeout. A number without a unit is in minutes; 0 means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle(pub Option<Duration>);

impl Setting for Idle {
    const FORM: &'static str = "a time such as `30s` or `2h`, or a number of minutes; `0` means never";

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        let time = duration_or_never(raw, 60);
        time.map(Idle).ok_or_else(|| "give minutes, or a time such as 30s or 2h, or 0 for never".to_owned())
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_duration_or_never(self.0, f)
    }
}

/// A time limit. A number without a unit is in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Duration);

impl Setting for Limit {
    const FORM: &'static str = "a time such as `90s` or `2m`, or a number of seconds";

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        duration(raw, 1).map(Limit).ok_or_else(|| "give seconds, or a time such as 90s or 2m".to_owned())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// An optional time limit. A number without a unit is in seconds; 0 means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeLimit(pub Option<Duration>);

impl Setting for MaybeLimit {
    const FORM: &'static str = "a time such as `90s` or `2m`, or a number of seconds; `0` means never";

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        let time = duration_or_never(raw, 1);
        time.map(MaybeLimit).ok_or_else(|| "give seconds, or a time such as 90s or 2m, or 0 for never".to_owned())
    }
}

impl fmt::Display for MaybeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_duration_or_never(self.0, f)
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Setting for Listen {
    const FORM: &'static str = "an address and a port, such as `127.0.0.1:31122` or `[::1]:31122`";

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        match raw {
            Raw::Text(text) => text.trim().parse().ok().map(Listen),
            _ => None,
        }
        .ok_or_else(|| "give an address and a port, such as 127.0.0.1:31122".to_owned())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An optional address to listen on; `none` means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeListen(pub Option<SocketAddr>);

impl Setting for MaybeListen {
    const FORM: &'static str = "an address and a port, such as `127.0.0.1:31180` or `[::1]:31180`, or `none`";

    fn read(raw: &Raw, base: &Base) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text.trim() == "none" => Ok(MaybeListen(None)),
            raw => Listen::read(raw, base)
                .map(|listen| MaybeListen(Some(listen.0)))
                .map_err(|_| "give an address and a port, such as 127.0.0.1:31180, or none".to_owned()),
        }
    }
}

impl fmt::Display for MaybeListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl Setting for Switch {
    const FORM: &'static str = "`true` or `false`";
    const CHOICES: &'static [&'static str] = &["true", "false"];
    const BARE_FLAG: Option<&'static str> = Some("true");

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        match raw {
            Raw::Boolean(switch) => Some(*switch),
            Raw::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(true),
                "false" | "no" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
        .map(Switch)
        .ok_or_else(|| "give true or false".to_owned())
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A path, made absolute and without `.` components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsolutePath(pub PathBuf);

impl Setting for AbsolutePath {
    const FORM: &'static str = "a path; a relative one is relative to the directory of the configuration file, or to the working directory in a flag or variable";

    fn read(raw: &Raw, base: &Base) -> Result<Self, String> {
        let Raw::Text(text) = raw else { return Err("give a path".to_owned()) };
        if text.is_empty() || text.contains('\0') {
            return Err("give a path".to_owned());
        }
        let path = match (text.strip_prefix("~/"), &base.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (Some(_), None) => return Err("give an absolute path: there is no home directory for ~".to_owned()),
            (None, _) => base.dir.join(text),
        };
        if !path.is_absolute() {
            return Err("give a path that begins with /".to_owned());
        }
        Ok(AbsolutePath(without_dots(&path)))
    }
}

/// Removes `.` components. Keeps `..`, whose meaning may depend on symbolic links.
fn without_dots(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// An optional path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaybePath(pub Option<PathBuf>);

impl Setting for MaybePath {
    const FORM: &'static str = AbsolutePath::FORM;

    fn read(raw: &Raw, base: &Base) -> Result<Self, String> {
        AbsolutePath::read(raw, base).map(|path| MaybePath(Some(path.0)))
    }
}

impl fmt::Display for MaybePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => path.display().fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// The guest's derivation in the store. Its path is not normalized, since Nix compares it by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe(pub Option<PathBuf>);

impl Setting for Recipe {
    const FORM: &'static str = "the path of a derivation in the store: `/nix/store/….drv`";

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text.starts_with('/') && text.ends_with(".drv") && !text.contains(['\0', '^', '\n']) => {
                Ok(Recipe(Some(text.into())))
            }
            _ => Err("give the path of a derivation in the store, /nix/store/….drv".to_owned()),
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        MaybePath(self.0.clone()).fmt(f)
    }
}

/// The backend; `None` is `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner(pub Option<Backend>);

impl Setting for Runner {
    const FORM: &'static str = "`auto`, `qemu` or `vz`";
    const CHOICES: &'static [&'static str] = &["auto", "qemu", "vz"];

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "auto" => Ok(Runner(None)),
            Raw::Text(text) => match Backend::ALL.into_iter().find(|backend| backend.as_str() == text) {
                Some(backend) => Ok(Runner(Some(backend))),
                None => Err("give auto, qemu or vz".to_owned()),
            },
            _ => Err("give auto, qemu or vz".to_owned()),
        }
    }
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.map_or("auto", Backend::as_str))
    }
}

/// The accelerator; `None` is `auto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator(pub Option<String>);

impl Setting for Accelerator {
    const FORM: &'static str = "`auto`, `kvm` or `tcg`";
    const CHOICES: &'static [&'static str] = &["auto", "kvm", "tcg"];

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "auto" => Ok(Accelerator(None)),
            Raw::Text(text) if text == "kvm" || text == "tcg" => Ok(Accelerator(Some(text.clone()))),
            _ => Err("give auto, kvm or tcg".to_owned()),
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("auto"))
    }
}

/// The log level, or directives in the format of `tracing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(pub String);

impl Setting for LogLevel {
    const FORM: &'static str = "`error`, `warn`, `info`, `debug`, `trace`, or directives such as `dvn_http=debug`";
    const CHOICES: &'static [&'static str] = &["error", "warn", "info", "debug", "trace"];

    fn read(raw: &Raw, _: &Base) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text.parse::<tracing_subscriber::filter::Targets>().is_ok_and(|_| known_level(text)) => {
                Ok(LogLevel(text.clone()))
            }
            _ => Err("give error, warn, info, debug or trace".to_owned()),
        }
    }
}

/// `Targets` accepts any single word as the name of a module. Here, a single word must be a level.
fn known_level(text: &str) -> bool {
    text.split(',').all(|part| {
        let level = part.rsplit('=').next().unwrap_or(part);
        ["off", "error", "warn", "info", "debug", "trace"].contains(&level.trim().to_ascii_lowercase().as_str())
    })
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
