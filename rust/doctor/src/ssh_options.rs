//! The options with which ssh reaches a host.

use std::collections::BTreeMap;

/// What `ssh -G` prints: a setting on each line, some of them often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, Vec<String>>);

impl Config {
    /// Reads it.
    pub fn read(text: &str) -> Config {
        let mut config = Config::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            config.0.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        config
    }

    /// The first value of an option, or nothing.
    pub fn first(&self, key: &str) -> &str {
        self.all(key).first().map_or("", String::as_str)
    }

    /// All values of an option.
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}
