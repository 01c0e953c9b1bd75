//! A machine's `config.json`: the keys of Tart, read strictly and written back whole.

use base64::{Engine, engine::general_purpose::STANDARD};
use dvn_types::{Arch, Kind, MacAddress, Report};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{fmt, path::Path, str::FromStr};

/// The version that Tart writes, and the only one there is.
const VERSION: u64 = 1;

/// Longest `config.json` that is read, in bytes. Tart's are below 1 KiB.
pub(crate) const LONGEST: u64 = 1 << 20;

/// Which system a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Os {
    /// macOS.
    Darwin,
    /// Linux, started by EFI.
    Linux,
}

/// How the bytes of `disk.img` are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// As the guest sees them.
    #[default]
    Raw,
    /// Apple's sparse image format, of macOS 26.
    Asif,
}

impl DiskFormat {
    /// Tart's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Asif => "asif",
        }
    }
}

/// The unit of a [`DisplaySize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Points of the host's screen.
    Pt,
    /// Pixels.
    Px,
}

/// The size of a machine's display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisplaySize {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// What they count; where absent, points for macOS and pixels for Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

impl Default for DisplaySize {
    fn default() -> Self {
        DisplaySize { width: 1024, height: 768, unit: None }
    }
}

/// As Tart's `--display` has it: `1024x768`, `1024x768px`, `1024x768pt`.
impl fmt::Display for DisplaySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Some(Unit::Pt) => "pt",
            Some(Unit::Px) => "px",
            None => "",
        };
        write!(f, "{}x{}{unit}", self.width, self.height)
    }
}

impl FromStr for DisplaySize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (size, unit) = match (text.strip_suffix("pt"), text.strip_suffix("px")) {
            (Some(size), _) => (size, Some(Unit::Pt)),
            (_, Some(size)) => (size, Some(Unit::Px)),
            _ => (text, None),
        };
        let side = |side: &str| side.parse().ok().filter(|side| (1..=16384).contains(side));
        match size.split_once('x').map(|(width, height)| (side(width), side(height))) {
            Some((Some(width), Some(height))) => Ok(DisplaySize { width, height, unit }),
            _ => Err(format!(
                "{text:?} is no size of a display: write WIDTHxHEIGHT, such as 1920x1080, and pt or px after it"
            )),
        }
    }
}

/// What `config.json` says of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmConfig {
    /// Of the format.
    version: u64,
    /// The guest's system.
    #[serde(default = "darwin")]
    pub os: Os,
    /// The guest's architecture.
    #[serde(default = "arm64", with = "arch")]
    pub arch: Arch,
    /// Fewest virtual processors that the guest's system runs with.
    pub cpu_count_min: u32,
    /// Virtual processors.
    pub cpu_count: u32,
    /// Least memory that the guest's system runs with, in bytes.
    pub memory_size_min: u64,
    /// Memory in bytes.
    pub memory_size: u64,
    /// Of the first network interface.
    pub mac_address: MacAddress,
    /// The display.
    #[serde(default)]
    pub display: DisplaySize,
    /// Whether the guest's resolution follows the window; the system's own default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_refit: Option<bool>,
    /// The format of `disk.img`.
    #[serde(default, deserialize_with = "lenient_format")]
    pub disk_format: DiskFormat,
    /// macOS: the machine's identifier, as Virtualization represents it, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecid: Option<String>,
    /// macOS: the model of the hardware, as Virtualization represents it, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_model: Option<String>,
    /// Keys that this program does not know. They are written back as they were read.
    #[serde(flatten)]
    other: Map<String, Value>,
}

fn darwin() -> Os {
    Os::Darwin
}

fn arm64() -> Arch {
    Arch::Aarch64
}

/// An unknown format counts as raw, as it does for Tart.
fn lenient_format<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<DiskFormat, D::Error> {
    let format = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(format).unwrap_or_default())
}

/// Tart's words for architectures are Go's.
mod arch {
    use dvn_types::Arch;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(arch: &Arch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match arch {
            Arch::Aarch64 => "arm64",
            Arch::X86_64 => "amd64",
        })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arch, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "arm64" => Ok(Arch::Aarch64),
            "amd64" => Ok(Arch::X86_64),
            other => Err(D::Error::unknown_variant(other, &["arm64", "amd64"])),
        }
    }
}

impl VmConfig {
    /// A Linux machine as Tart makes it: 4 processors and 4 GiB of memory, with a MAC address of its own.
    pub fn linux(arch: Arch) -> VmConfig {
        VmConfig {
            version: VERSION,
            os: Os::Linux,
            arch,
            cpu_count_min: 1,
            cpu_count: 4,
            memory_size_min: 512 << 20,
            memory_size: 4 << 30,
            mac_address: MacAddress::random(),
            display: DisplaySize::default(),
            display_refit: None,
            disk_format: DiskFormat::Raw,
            ecid: None,
            hardware_model: None,
            other: Map::new(),
        }
    }

    /// Reads a `config.json`. Errors name the file, the key and what is wrong with it.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<VmConfig, Report> {
        let damaged = |why: String| {
            Report::new(Kind::State, format!("{} cannot be used: {why}", path.display()))
                .hint("restore the file from a backup, or delete the machine")
        };
        let keys: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| damaged(format!("it is no JSON object: {e}")))?;
        match keys.get("version").map(Value::as_u64) {
            Some(Some(VERSION)) => {}
            Some(Some(newer @ 2..)) => {
                let why =
                    format!("{} has version {newer} of the format, and this program reads version 1", path.display());
                return Err(Report::new(Kind::State, why).hint("a newer version of this program may read it"));
            }
            Some(_) => return Err(damaged("its key `version` is not 1".to_owned())),
            None => return Err(damaged("its key `version` is missing".to_owned())),
        }
        let config: VmConfig = serde_json::from_value(Value::Object(keys)).map_err(|e| damaged(e.to_string()))?;
        config.check().map_err(damaged)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let number = |key: &str, value: u64| match value {
            0 => Err(format!("its key `{key}` is 0")),
            _ => Ok(()),
        };
        number("cpuCount", self.cpu_count.into())?;
        number("memorySize", self.memory_size)?;
        number("display.width", self.display.width.into())?;
        number("display.height", self.display.height.into())?;
        for (key, value) in [("ecid", &self.ecid), ("hardwareModel", &self.hardware_model)] {
            match value {
                Some(value) if STANDARD.decode(value).is_err() => return Err(format!("its key `{key}` is no base64")),
                None if self.os == Os::Darwin => {
                    return Err(format!("its key `{key}` is missing, which a macOS machine needs"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses fewer processors or less memory than the guest's system runs with.
    pub fn demand_enough(&self) -> Result<(), Report> {
        let short = |what: &str, wanted: u64, least: u64| {
            Report::new(Kind::Config, format!("the machine needs at least {least} {what}, and {wanted} are asked for"))
        };
        if self.cpu_count < self.cpu_count_min.max(1) {
            return Err(short("processors", self.cpu_count.into(), self.cpu_count_min.max(1).into()));
        }
        if self.memory_size < self.memory_size_min {
            return Err(short("bytes of memory", self.memory_size, self.memory_size_min));
        }
        Ok(())
    }

    /// The file's text: indented JSON, keys that this program does not know included.
    pub fn text(&self) -> Result<Vec<u8>, Report> {
        serde_json::to_vec_pretty(self)
            .map_err(|e| Report::new(Kind::Internal, format!("cannot write a config.json: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MACOS: &str = r#"{"version":1,"os":"darwin","arch":"arm64","cpuCountMin":4,"cpuCount":4,"memorySizeMin":4294967296,
        "memorySize":8589934592,"macAddress":"7e:a5:3c:11:22:33","display":{"width":1024,"height":768},"ecid":"AAEC",
        "hardwareModel":"AwQF","future":{"kept":[1,2]}}"#;

    fn parse(text: &str) -> Result<VmConfig, Report> {
        VmConfig::parse(text.as_bytes(), Path::new("/l/vms/x/config.json"))
    }

    #[test]
    fn every_key_of_tart_is_read_and_unknown_ones_are_kept() {
        let config = parse(MACOS).unwrap();
        assert_eq!(
            (config.os, config.arch, config.cpu_count, config.memory_size),
            (Os::Darwin, Arch::Aarch64, 4, 8 << 30)
        );
        let again: Value = serde_json::from_slice(&config.text().unwrap()).unwrap();
        assert_eq!(again["future"]["kept"], serde_json::json!([1, 2]));
        assert_eq!(again["diskFormat"], "raw");
        assert!(again.get("displayRefit").is_none());
    }

    #[test]
    fn absent_keys_mean_what_they_mean_to_tart() {
        let old = MACOS
            .replace(r#""os":"darwin","arch":"arm64","#, "")
            .replace(r#""display":{"width":1024,"height":768},"#, "");
        let config = parse(&old).unwrap();
        assert_eq!((config.os, config.arch, config.display), (Os::Darwin, Arch::Aarch64, DisplaySize::default()));
        let unknown = MACOS.replace(r#""version":1"#, r#""version":1,"diskFormat":"qcow9""#);
        assert_eq!(parse(&unknown).unwrap().disk_format, DiskFormat::Raw);
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_path_and_the_key() {
        for (from, to, says) in [
            ("{\"version\"", "[\"version\"", "no JSON object"),
            (r#""version":1"#, r#""version":2"#, "version 2 of the format"),
            (r#""version":1"#, r#""version":"1""#, "`version` is not 1"),
            (r#""version":1,"#, "", "`version` is missing"),
            (r#""cpuCount":4"#, r#""cpuCount":0"#, "`cpuCount` is 0"),
            (r#""cpuCount":4,"#, "", "cpuCount"),
            (r#""cpuCount":4"#, r#""cpuCount":-1"#, "-1"),
            (r#""memorySize":8589934592,"#, "", "memorySize"),
            ("7e:a5:3c:11:22:33", "7e:a5:3c:11:22", "7e:a5:3c:11:22"),
            (r#""os":"darwin""#, r#""os":"beos""#, "beos"),
            (r#""arch":"arm64""#, r#""arch":"mips""#, "mips"),
            ("AAEC", "A*EC", "`ecid` is no base64"),
            (r#""hardwareModel":"AwQF","#, "", "`hardwareModel` is missing"),
            (r#""width":1024"#, r#""width":0"#, "`display.width` is 0"),
        ] {
            let error = parse(&MACOS.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.kind, Kind::State);
            assert!(error.message.contains("/l/vms/x/config.json") && error.message.contains(says), "{from}: {error}");
        }
    }

    #[test]
    fn a_display_is_written_as_it_is_read() {
        for text in ["1024x768", "1920x1080px", "800x600pt"] {
            assert_eq!(text.parse::<DisplaySize>().unwrap().to_string(), text);
        }
        for bad in ["", "1024", "0x5", "5x0", "ax5", "5x5pp", "-1x5", "99999x5", "5x5x5"] {
            assert!(bad.parse::<DisplaySize>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = VmConfig::parse(&bytes, Path::new("c"));
        }

        #[test]
        fn no_replaced_byte_makes_the_reader_panic_or_lose_what_it_accepts(at in 0..380usize, byte in any::<u8>()) {
            let mut bytes = MACOS.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(config) = VmConfig::parse(&bytes, Path::new("c")) {
                let again = VmConfig::parse(&config.text().unwrap(), Path::new("c")).unwrap();
                prop_assert_eq!(config, again);
            }
        }
    }
}
