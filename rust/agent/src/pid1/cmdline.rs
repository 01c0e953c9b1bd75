//! The agent's options on the kernel's command line.

use std::fs;

/// Prefix of the agent's options.
const OURS: &str = "darwin-vz.";

/// The options. All are for measurements; an ordinary guest needs none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `darwin-vz.tcp-ssh=PORT`: also serves sshd on a TCP port, to compare vsock with a hypervisor's port forwarding.
    pub tcp_ssh: Option<u16>,
}

/// Reads `/proc/cmdline`.
pub fn read() -> Options {
    parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
}

fn parse(line: &str) -> Options {
    let mut options = Options::default();
    for (name, value) in line.split_whitespace().filter_map(|word| word.strip_prefix(OURS)?.split_once('=')) {
        if name == "tcp-ssh" {
            options.tcp_ssh = value.parse().ok().filter(|port| *port != 0);
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_found_among_the_kernels_own() {
        assert_eq!(parse("console=hvc0 quiet darwin-vz.tcp-ssh=22 panic=-1\n").tcp_ssh, Some(22));
        for without in ["", "quiet", "darwin-vz.tcp-ssh", "darwin-vz.tcp-ssh=", "darwin-vz.tcp-ssh=0", "tcp-ssh=22"] {
            assert_eq!(parse(without), Options::default(), "{without:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in any::<String>()) {
            let _ = parse(&line);
            let _ = parse(&format!("{OURS}{line} {OURS}tcp-ssh={line}"));
        }
    }
}
