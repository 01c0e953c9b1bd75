//! What the kernel's command line asks of the agent.

use std::fs;

/// Words that begin with this are the agent's.
const OURS: &str = "darwin-vz.";

/// The options; all are for measurements and none is needed by an ordinary guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `darwin-vz.tcp-ssh=PORT`: offer the same sshd on a TCP port too, to compare with a hypervisor's port forward.
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
        fn any_line_is_survived(line in any::<String>()) {
            let _ = parse(&line);
            let _ = parse(&format!("{OURS}{line} {OURS}tcp-ssh={line}"));
        }
    }
}
