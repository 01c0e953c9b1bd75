//! Waiting until a machine that runs can be used: `run --wait-for`.

use crate::{
    agent_call::{call, unexpected},
    exec_session::carry,
    progress,
};
use dvn_client::Client;
use dvn_protocol::service::{Call, Exec, Reply};
use dvn_types::{Kind, MachineName, Report};
use std::{fmt, str::FromStr, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

/// Interval between two questions: a guest announces none of this.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// The agent answers.
    Agent,
    /// The guest has an address.
    Ip,
    /// A program in the guest listens on this TCP port, and not only on the loopback address.
    Port(u16),
}

impl FromStr for WaitFor {
    type Err = String;

    fn from_str(text: &str) -> Result<WaitFor, String> {
        match text {
            "agent" => Ok(WaitFor::Agent),
            "ip" => Ok(WaitFor::Ip),
            text => {
                let port = text.strip_prefix("port:").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
                port.map(WaitFor::Port)
                    .ok_or_else(|| "give agent, ip, or port:N with a number from 1 to 65535".to_owned())
            }
        }
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitFor::Agent => f.write_str("its agent"),
            WaitFor::Ip => f.write_str("an address"),
            WaitFor::Port(port) => write!(f, "a program that listens on port {port}"),
        }
    }
}

/// Returns when it is so.
pub async fn wait(client: &Client, name: &MachineName, what: WaitFor, limit: Duration) -> Result<(), Report> {
    progress::with_notice(format!("{name}: waiting for {what}"), poll(client, name, what, limit)).await
}

async fn poll(client: &Client, name: &MachineName, what: WaitFor, limit: Duration) -> Result<(), Report> {
    let give_up = Instant::now() + limit;
    let mut why = String::new();
    loop {
        match timeout_at(give_up, is_so(client, name, what)).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => why.clear(),
            Ok(Err(report)) if report.kind == Kind::Guest => why = format!(": {}", report.message),
            // The machine does not run any more.
            Ok(Err(report)) => return Err(report),
            Err(_) => {}
        }
        if Instant::now() >= give_up {
            let waited = format!("{name} runs, but {what} did not appear within {} s{why}", limit.as_secs());
            return Err(Report::new(Kind::Guest, waited)
                .hint("see its console: `darwin-vz-nix logs --console`; --timeout allows it more time"));
        }
        sleep(INTERVAL.min(give_up.saturating_duration_since(Instant::now()))).await;
    }
}

async fn is_so(client: &Client, name: &MachineName, what: WaitFor) -> Result<bool, Report> {
    match what {
        WaitFor::Agent => match call(client, name, &Call::Hello).await?.0 {
            Reply::Hello(_) => Ok(true),
            other => Err(unexpected(&other)),
        },
        WaitFor::Ip => Ok(!client.addresses(name).await?.addresses.is_empty()),
        WaitFor::Port(port) => Ok(listens(&sockets(client, name).await?, port)),
    }
}

/// The TCP sockets of a Linux guest. To connect from here would prove nothing: a port that QEMU exposes accepts connections before
/// the guest does.
async fn sockets(client: &Client, name: &MachineName) -> Result<String, Report> {
    let args = ["/proc/net/tcp", "/proc/net/tcp6"].map(str::to_owned).to_vec();
    let read = Exec { command: "cat".to_owned(), args, ..Exec::default() };
    let (reply, connection) = call(client, name, &Call::Exec(read)).await?;
    let Reply::Started { .. } = reply else { return Err(unexpected(&reply)) };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    // It has no input. A guest without IPv6 lacks the second file.
    let (_frames, receiver) = mpsc::channel(1);
    carry(connection, receiver, &mut stdout, &mut stderr).await?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Whether one of these sockets listens on the port. Each line has the local address in hexadecimal, the port after it, and
/// the state, where 0A is listening. The kernel writes the bytes of an address in groups of four, each in reverse.
fn listens(sockets: &str, port: u16) -> bool {
    let loopback = |address: &str| match address.len() {
        8 => address.ends_with("7F"),
        _ => address == "00000000000000000000000001000000",
    };
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        let Some((address, number)) = local.and_then(|local| local.split_once(':')) else { return false };
        state == Some("0A") && u16::from_str_radix(number, 16) == Ok(port) && !loopback(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_waited_for() {
        assert_eq!("agent".parse(), Ok(WaitFor::Agent));
        assert_eq!("ip".parse(), Ok(WaitFor::Ip));
        assert_eq!("port:8096".parse(), Ok(WaitFor::Port(8096)));
        for bad in ["", "ssh", "port", "port:", "port:0", "port:70000"] {
            assert!(bad.parse::<WaitFor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_counts_if_others_can_reach_it() {
        let sockets = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 00000000:1FA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1\n\
            \x20  1: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1\n\
            \x20  2: 0F02000A:9C40 0202000A:0050 01 00000000:00000000 00:00000000 00000000     0        0 103 1\n\
            \x20  0: 00000000000000000000000001000000:0019 00000000000000000000000000000000:0000 0A 0 0 0 0 0 104\n\
            \x20  1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0 0 0 0 0 105\n";
        for (port, listening) in [(8096, true), (631, false), (40_000, false), (80, false), (25, false), (22, true)] {
            assert_eq!(listens(sockets, port), listening, "{port}");
        }
        assert!(!listens("", 80));
    }
}
