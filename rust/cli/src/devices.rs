//! What `run` gives a machine beside its own hardware: disks, directories and ports, as they stand on the command line.

use dvn_types::wire::Exposed;
use std::str::FromStr;

/// The tag of a directory without a name. A guest with macOS mounts it by itself.
pub const AUTOMOUNT: &str = "com.apple.virtio-fs.automount";

/// `PATH[:ro]`: a further disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// As it was given.
    pub path: String,
    /// The guest cannot write it.
    pub read_only: bool,
}

/// `[NAME:]PATH[:ro]`: a directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The tag under which the guest mounts it.
    pub tag: String,
    /// As it was given.
    pub path: String,
    /// The guest cannot write it.
    pub read_only: bool,
}

/// `HOST:GUEST`: a port of the host's loopback address, and the guest's port to which it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports(pub Exposed);

/// A path without its last option. `:rw` is the default, for paths that end in `:ro`.
fn without_option(text: &str) -> Result<(&str, bool), String> {
    let (path, read_only) = match (text.strip_suffix(":ro"), text.strip_suffix(":rw")) {
        (Some(path), _) => (path, true),
        (_, Some(path)) => (path, false),
        _ => (text, false),
    };
    if path.is_empty() { Err("the path is missing".to_owned()) } else { Ok((path, read_only)) }
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Disk, String> {
        let (path, read_only) = without_option(text)?;
        Ok(Disk { path: path.to_owned(), read_only })
    }
}

impl FromStr for Directory {
    type Err = String;

    fn from_str(text: &str) -> Result<Directory, String> {
        let (rest, read_only) = without_option(text)?;
        // A colon after a slash belongs to the path.
        let (tag, path) = match rest.split_once(':') {
            Some((name, path)) if !name.contains('/') => (name, path),
            _ => (AUTOMOUNT, rest),
        };
        match (tag.is_empty(), path.is_empty()) {
            (true, _) => Err("the name before the colon is missing; begin a relative path with ./".to_owned()),
            (_, true) => Err("the path after the colon is missing".to_owned()),
            _ => Ok(Directory { tag: tag.to_owned(), path: path.to_owned(), read_only }),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let ports = text.split_once(':').and_then(|(host, guest)| Some((port(host)?, port(guest)?)));
        let (host, guest) = ports.ok_or("give two numbers from 1 to 65535, such as 8080:80")?;
        Ok(Ports(Exposed { host, guest }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_path_that_may_contain_colons() {
        for (text, path, read_only) in [
            ("data.img", "data.img", false),
            ("/d/a:b.img", "/d/a:b.img", false),
            ("/d/a:b.img:ro", "/d/a:b.img", true),
            ("x:ro:rw", "x:ro", false),
        ] {
            assert_eq!(text.parse(), Ok(Disk { path: path.to_owned(), read_only }), "{text}");
        }
        assert_eq!(":ro".parse::<Disk>().unwrap_err(), "the path is missing");
    }

    #[test]
    fn a_directory_has_a_name_before_its_first_slash() {
        for (text, tag, path, read_only) in [
            ("/src", AUTOMOUNT, "/src", false),
            ("src", AUTOMOUNT, "src", false),
            ("/src/a:b", AUTOMOUNT, "/src/a:b", false),
            ("./a:b", AUTOMOUNT, "./a:b", false),
            ("work:/src", "work", "/src", false),
            ("work:src:ro", "work", "src", true),
            ("work:~/a:b:ro", "work", "~/a:b", true),
            ("/src:ro", AUTOMOUNT, "/src", true),
        ] {
            let expected = Directory { tag: tag.to_owned(), path: path.to_owned(), read_only };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in ["", ":ro", ":/src", "work:", "work::ro"] {
            assert!(bad.parse::<Directory>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_two_numbers() {
        assert_eq!("8080:80".parse(), Ok(Ports(Exposed { host: 8080, guest: 80 })));
        for bad in ["80", "0:80", "80:0", "80:65536", "a:b", "1:2:3", ""] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
