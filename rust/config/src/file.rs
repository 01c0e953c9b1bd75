//! The TOML file: settings of the daemon and of all machines at the top, and a table `[machines.NAME]` for each
//! machine.

use super::{
    error::{ConfigError, nearest},
    origin::Origin,
    table::{Key, Layer},
    value::{Base, Raw},
};
use dvn_types::MachineName;
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Settings of the daemon and of every machine.
    pub top: Layer,
    /// Settings of single machines.
    pub machines: BTreeMap<MachineName, Layer>,
}

impl File {
    /// Reads the file. A missing file counts as empty, unless it is `required`.
    pub fn read(path: &Path, required: bool, home: Option<&Path>) -> Result<File, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => File::parse(path, &text, home),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(File::default()),
            Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Parses its text. Relative paths in it are relative to the directory of `path`.
    pub fn parse(path: &Path, text: &str, home: Option<&Path>) -> Result<File, ConfigError> {
        let base =
            Base { dir: path.parent().map_or_else(PathBuf::new, Path::to_owned), home: home.map(Path::to_owned) };
        let reader = Reader { path, text, base };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            origin: reader.at(error.span().unwrap_or(0..0)),
            message: error.message().to_owned(),
        })?;
        let mut file = File::default();
        for (name, value) in table.get_ref() {
            match Key::named(name.get_ref()) {
                Some(key) => reader.set(&mut file.top, key, name.span(), value)?,
                None if name.get_ref() == "machines" => reader.machines(&mut file.machines, name.span(), value)?,
                None => return Err(reader.unknown(name.get_ref(), name.span(), true)),
            }
        }
        Ok(file)
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    base: Base,
}

impl Reader<'_> {
    fn at(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        Origin::File { path: self.path.to_owned(), line: 1 + before.iter().filter(|byte| **byte == b'\n').count() }
    }

    fn set(
        &self,
        layer: &mut Layer,
        key: Key,
        name: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let raw = raw(value.get_ref());
        let origin = self.at(name);
        layer.set(key, &raw, origin.clone(), &self.base).map_err(|instead| ConfigError::Unclear {
            origin,
            key,
            given: raw.to_string(),
            instead,
        })
    }

    fn machines(
        &self,
        machines: &mut BTreeMap<MachineName, Layer>,
        name: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(ConfigError::NoTable { origin: self.at(name), name: "machines.NAME".to_owned() });
        };
        for (machine, value) in table {
            let origin = || self.at(machine.span());
            let name = plain_name(machine.get_ref()).map_err(|why| ConfigError::BadName { origin: origin(), why })?;
            let DeValue::Table(settings) = value.get_ref() else {
                return Err(ConfigError::NoTable { origin: origin(), name: format!("machines.{name}") });
            };
            let layer = machines.entry(name).or_default();
            for (name, value) in settings {
                match Key::named(name.get_ref()) {
                    Some(key) if key.of_a_machine() => self.set(layer, key, name.span(), value)?,
                    Some(key) => return Err(ConfigError::Misplaced { origin: self.at(name.span()), key }),
                    None => return Err(self.unknown(name.get_ref(), name.span(), false)),
                }
            }
        }
        Ok(())
    }

    fn unknown(&self, name: &str, span: Range<usize>, top: bool) -> ConfigError {
        let keys = Key::ALL.iter().filter(|key| top || key.of_a_machine()).map(|key| key.name());
        let nearest = nearest(name, keys.chain(top.then_some("machines")));
        ConfigError::UnknownKey { origin: self.at(span), name: name.to_owned(), nearest }
    }
}

/// A machine of the configuration is an ssh alias and a service too, so its name has few characters.
fn plain_name(name: &str) -> Result<MachineName, String> {
    let plain = name.parse::<MachineName>().ok().filter(MachineName::is_plain);
    plain.ok_or_else(|| {
        format!("{name:?} is not a machine name: use 1 to 32 of a-z, 0-9 and '-', starting with a letter")
    })
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(switch) => Raw::Boolean(*switch),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Unfit("a number that large"),
        },
        DeValue::Float(_) => Raw::Unfit("a fraction without quotes"),
        DeValue::Datetime(_) => Raw::Unfit("a date"),
        DeValue::Array(_) => Raw::Unfit("a list"),
        DeValue::Table(_) => Raw::Unfit("a table"),
    }
}
