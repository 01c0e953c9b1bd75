//! Parser of `launchctl print`. Apple does not guarantee its format, so unknown fields are ignored.

/// A job of launchd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// `running`, `not running`, `spawn scheduled`, …
    pub state: String,
    /// Its process, while it has one.
    pub pid: Option<u32>,
    /// Exit code of its last run; `None` if it never ended.
    pub last_exit: Option<u8>,
    /// The program that launchd runs.
    pub program: Option<String>,
}

impl Job {
    /// Reads the job's own fields, which are indented by one tab. Deeper fields have the same names and belong to its
    /// sockets and to others.
    pub fn read(text: &str) -> Option<Job> {
        let field = |name: &str| {
            let own = text.lines().filter_map(|line| line.strip_prefix('\t')).filter(|line| !line.starts_with('\t'));
            own.filter_map(|line| line.split_once(" = ")).find(|(key, _)| *key == name).map(|(_, value)| value.trim())
        };
        Some(Job {
            state: field("state")?.to_owned(),
            pid: field("pid").and_then(|pid| pid.parse().ok()),
            // `78: EX_CONFIG`, `0`, `(never exited)`.
            last_exit: field("last exit code").and_then(|code| code.split(':').next()?.trim().parse().ok()),
            program: field("program").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jobs_own_fields_are_read_and_not_those_of_its_sockets() {
        let running = "system/org.nixos.darwin-vz = {\n\tactive count = 3\n\tpath = /Library/LaunchDaemons/org.nixos.darwin-vz.plist\n\
            \ttype = LaunchDaemon\n\tstate = running\n\n\tprogram = /bin/sh\n\targuments = {\n\t\t/bin/sh\n\t\t-c\n\t}\n\n\
            \tpid = 4242\n\timmediate reason = ipc (socket)\n\tforks = 0\n\texecs = 1\n\tlast exit code = (never exited)\n\n\
            \tsockets = {\n\t\t\"Listeners\" = {\n\t\t\tstate = active\n\t\t\tpid = 1\n\t\t}\n\t}\n\tjob state = running\n}\n";
        let expected =
            Job { state: "running".into(), pid: Some(4242), last_exit: None, program: Some("/bin/sh".into()) };
        assert_eq!(Job::read(running), Some(expected));
        let ended =
            "system/org.nixos.darwin-vz = {\n\tstate = not running\n\truns = 6\n\tlast exit code = 78: EX_CONFIG\n}\n";
        assert_eq!(Job::read(ended), Some(Job { state: "not running".into(), last_exit: Some(78), ..Job::default() }));
        let clean = ended.replace("78: EX_CONFIG", "0");
        assert_eq!(Job::read(&clean).and_then(|job| job.last_exit), Some(0));
        assert_eq!(Job::read("Bad request.\n"), None);
    }
}
