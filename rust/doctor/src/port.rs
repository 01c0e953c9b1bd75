//! The address of the ssh door: held by the daemon, by the service manager, by another program, or free.

use super::{broken, finding::Finding, needs, subject::Subject};
use dvn_types::Kind;
use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// The process that holds the port, as far as this user can see.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    name: String,
    pid: String,
}

struct Facts {
    configured: SocketAddr,
    /// The addresses on which the daemon listens, if one runs.
    daemon: Option<Vec<String>>,
    /// Whether the address could be bound; not tried where the daemon has it.
    free: Result<(), io::ErrorKind>,
    holder: Option<Holder>,
}

/// The check `port`.
pub async fn check(subject: &Subject) -> Finding {
    let configured = match needs::settings(subject) {
        Ok(settings) => settings.builder.listen,
        Err(finding) => return finding,
    };
    // Of a machine that is broken because the port is taken, the daemon has no address: then it is found out who has it.
    let listening = subject.status().filter(|status| broken::cause(status).is_none() || !status.listen.is_empty());
    let daemon = listening.map(|status| status.listen.clone());
    let has_it = daemon.as_ref().is_some_and(|listen| listen.contains(&configured.to_string()));
    // Binds and releases at once. It does not connect, which would start a guest.
    let free = if has_it { Ok(()) } else { TcpListener::bind(configured).map(drop).map_err(|error| error.kind()) };
    let holder = if free == Err(io::ErrorKind::AddrInUse) { holder(subject, configured.port()).await } else { None };
    judge(&Facts { configured, daemon, free, holder })
}

/// The check `api-port`.
pub async fn api(subject: &Subject) -> Finding {
    let Some(configured) = subject.api_listen else {
        return Finding::not_applicable("the API answers on its Unix socket alone");
    };
    if subject.daemon.is_ok() {
        return Finding::ok("the daemon runs, and listens where its settings said when it started");
    }
    let free = TcpListener::bind(configured).map(drop).map_err(|error| error.kind());
    let holder = if free == Err(io::ErrorKind::AddrInUse) { holder(subject, configured.port()).await } else { None };
    judge_as("api-listen", &Facts { configured, daemon: None, free, holder })
}

async fn holder(subject: &Subject, port: u16) -> Option<Holder> {
    if let Some(ss) = subject.find("ss") {
        let said = ss.args(["-H", "-ltnp", &format!("sport = :{port}")]).run().await.ok()?;
        return by_ss(&said.stdout);
    }
    let lsof = subject.find("lsof")?.args(["-nP", &format!("-iTCP:{port}"), "-sTCP:LISTEN"]);
    by_lsof(&lsof.run().await.ok()?.stdout)
}

/// `… users:(("python3",pid=21244,fd=3))`. Without privileges the last column is missing.
fn by_ss(text: &str) -> Option<Holder> {
    let (_, user) = text.split_once("users:((\"")?;
    let (name, rest) = user.split_once("\",pid=")?;
    let pid = rest.split([',', ')']).next()?;
    Some(Holder { name: name.to_owned(), pid: pid.to_owned() })
}

/// A header, then `COMMAND PID USER …`. Only root sees other users' processes.
fn by_lsof(text: &str) -> Option<Holder> {
    let mut words = text.lines().nth(1)?.split_whitespace();
    Some(Holder { name: words.next()?.to_owned(), pid: words.next()?.to_owned() })
}

fn judge(facts: &Facts) -> Finding {
    judge_as("listen", facts)
}

/// Judges the address that this setting configures.
fn judge_as(setting: &str, facts: &Facts) -> Finding {
    let address = facts.configured;
    if facts.configured.port() == 0 {
        return Finding::ok("the daemon chooses a free port when it starts");
    }
    match (&facts.daemon, facts.free) {
        (Some(listen), _) if listen.contains(&address.to_string()) => {
            Finding::ok(format!("the daemon listens on {address}"))
        }
        (Some(listen), _) => {
            Finding::warning(format!("the daemon listens on {}, but {address} is configured", listen.join(", ")))
                .hint("restart it to apply the settings: `darwin-vz-nix stop --daemon`")
        }
        (None, Ok(())) => Finding::ok(format!("{address} is free")),
        (None, Err(io::ErrorKind::AddrInUse)) => match &facts.holder {
            // Process 1, in which launchd and systemd hold sockets.
            Some(holder) if holder.pid == "1" => Finding::ok(format!("{} holds {address} for the daemon", holder.name)),
            Some(holder) => taken(setting, address, &format!("{}, process {},", holder.name, holder.pid)),
            None => taken(setting, address, "a program of another user")
                .hint("this is fine if launchd or systemd holds it for the daemon: run this as root to check"),
        },
        (None, Err(io::ErrorKind::PermissionDenied)) => {
            Finding::failed(Kind::Host, format!("this user may not listen on {address}"))
                .hint(format!("choose a port above 1023: the setting `{setting}`"))
        }
        (None, Err(kind)) => Finding::failed(Kind::Host, format!("{address} cannot be listened on: {kind}"))
            .hint(format!("choose another address: the setting `{setting}`")),
    }
}

fn taken(setting: &str, address: SocketAddr, holder: &str) -> Finding {
    Finding::failed(Kind::Busy, format!("{holder} has {address}"))
        .hint(format!("end it, or choose another port: the setting `{setting}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;

    fn judged(daemon: Option<&str>, free: Result<(), io::ErrorKind>, holder: Option<(&str, &str)>) -> Finding {
        judge(&Facts {
            configured: "127.0.0.1:31122".parse().unwrap(),
            daemon: daemon.map(|address| vec![address.to_owned()]),
            free,
            holder: holder.map(|(name, pid)| Holder { name: name.to_owned(), pid: pid.to_owned() }),
        })
    }

    #[test]
    fn the_port_is_ours_or_free() {
        for finding in [
            judged(Some("127.0.0.1:31122"), Ok(()), None),
            judged(None, Ok(()), None),
            judged(None, Err(io::ErrorKind::AddrInUse), Some(("launchd", "1"))),
        ] {
            assert_eq!(finding.outcome, Outcome::Ok, "{finding:?}");
        }
    }

    #[test]
    fn another_holder_is_named() {
        let finding = judged(None, Err(io::ErrorKind::AddrInUse), Some(("python3", "21244")));
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Busy)));
        assert_eq!(finding.evidence, "python3, process 21244, has 127.0.0.1:31122");
        assert_eq!(judged(None, Err(io::ErrorKind::AddrInUse), None).outcome, Outcome::Failed);
        assert_eq!(judged(None, Err(io::ErrorKind::PermissionDenied), None).kind, Some(Kind::Host));
        assert_eq!(judged(None, Err(io::ErrorKind::AddrNotAvailable), None).outcome, Outcome::Failed);
    }

    #[tokio::test]
    async fn the_apis_own_address_is_looked_at_where_there_is_one() {
        let tmp = tempfile::tempdir().unwrap();
        let mut subject = Subject::unknown(tmp.path());
        assert_eq!(api(&subject).await.outcome, Outcome::NotApplicable);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        subject.api_listen = Some(taken.local_addr().unwrap());
        let finding = api(&subject).await;
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Busy)));
        assert!(finding.hints[0].contains("`api-listen`"), "{finding:?}");
        drop(taken);
        assert_eq!(api(&subject).await.outcome, Outcome::Ok);
    }

    #[test]
    fn a_daemon_with_other_settings_is_reported() {
        let finding = judged(Some("127.0.0.1:4000"), Ok(()), None);
        assert_eq!(finding.outcome, Outcome::Warning);
        assert!(finding.evidence.contains("127.0.0.1:4000, but 127.0.0.1:31122"), "{finding:?}");
    }

    #[test]
    fn holders_are_read() {
        let ss = "LISTEN 0      5      127.0.0.1:34567 0.0.0.0:* users:((\"python3\",pid=21244,fd=3))\n";
        assert_eq!(by_ss(ss), Some(Holder { name: "python3".into(), pid: "21244".into() }));
        assert_eq!(by_ss("LISTEN 0      5      127.0.0.1:34567 0.0.0.0:*\n"), None);
        let lsof = "COMMAND PID USER   FD   TYPE             DEVICE SIZE/OFF NODE NAME\n\
                    launchd   1 root   11u  IPv4 0x5a0e3a5c1b2f9d11      0t0  TCP 127.0.0.1:31122 (LISTEN)\n";
        assert_eq!(by_lsof(lsof), Some(Holder { name: "launchd".into(), pid: "1".into() }));
        assert_eq!(by_lsof(""), None);
    }
}
