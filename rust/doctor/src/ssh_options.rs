//! The options that ssh uses for a host.

use std::collections::BTreeMap;

/// The output of `ssh -G`: one option per line; some options have several lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, Vec<String>>);

impl Config {
    /// Parses the output.
    pub fn read(text: &str) -> Config {
        let mut config = Config::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            config.0.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        config
    }

    /// The first value of an option, or the empty string.
    pub fn first(&self, key: &str) -> &str {
        self.all(key).first().map_or("", String::as_str)
    }

    /// All values of an option.
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}
