//! DHCP messages (RFC 2131, 2132): the few that a client needs.

use std::{net::Ipv4Addr, time::Duration};

/// Longest accepted message; longer ones are truncated, and options in the rest are ignored.
pub const MAX: usize = 1500;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 240;
/// The minimum length that some servers require.
const SHORTEST: usize = 300;

const MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const HOST_NAME: u8 = 12;
const DOMAIN: u8 = 15;
const REQUESTED: u8 = 50;
const LEASE: u8 = 51;
const TYPE: u8 = 53;
const SERVER: u8 = 54;
const WANTED: u8 = 55;
const END: u8 = 255;

/// Message type of a server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Offers an address.
    Offer,
    /// Confirms the address.
    Ack,
    /// Refuses it.
    Nak,
}

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Searches for servers with a free address.
    Discover,
    /// Requests this address from this server.
    Request {
        /// The address offered.
        address: Ipv4Addr,
        /// The server that offered it.
        server: Ipv4Addr,
    },
    /// Asks to keep the address.
    Renew {
        /// The address.
        address: Ipv4Addr,
    },
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its type.
    pub kind: Kind,
    /// The address.
    pub address: Ipv4Addr,
    /// The server.
    pub server: Ipv4Addr,
    /// Bits of the network part.
    pub mask: Ipv4Addr,
    /// The default route.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The domain for short names.
    pub domain: Option<String>,
    /// How long the address is ours.
    pub lease: Duration,
}

/// Encodes a request.
pub fn ask(question: Question, transaction: u32, mac: [u8; 6], host_name: &str) -> Vec<u8> {
    let mut m = vec![0; FIXED];
    m[..4].copy_from_slice(&[1, 1, 6, 0]); // a request, over Ethernet
    m[4..8].copy_from_slice(&transaction.to_be_bytes());
    m[28..34].copy_from_slice(&mac);
    m[236..240].copy_from_slice(&COOKIE);
    let mut option = |code: u8, value: &[u8]| {
        let value = &value[..value.len().min(255)];
        m.extend([code, value.len() as u8]);
        m.extend(value);
    };
    let own = match question {
        Question::Discover => {
            option(TYPE, &[1]);
            None
        }
        Question::Request { address, server } => {
            option(TYPE, &[3]);
            option(REQUESTED, &address.octets());
            option(SERVER, &server.octets());
            None
        }
        Question::Renew { address } => {
            option(TYPE, &[3]);
            Some(address)
        }
    };
    option(WANTED, &[MASK, ROUTER, DNS, DOMAIN, LEASE]);
    if !host_name.is_empty() {
        option(HOST_NAME, host_name.as_bytes());
    }
    m.push(END);
    m.resize(m.len().max(SHORTEST), 0);
    match own {
        Some(address) => m[12..16].copy_from_slice(&address.octets()),
        // Without an address, only a broadcast reaches the client.
        None => m[10] = 0x80,
    }
    m
}

/// Parses a server's answer to this transaction; `None` for anything else.
pub fn parse(message: &[u8], transaction: u32, mac: [u8; 6]) -> Option<Answer> {
    let fixed = message.get(..FIXED)?;
    let ours =
        fixed[0] == 2 && fixed[4..8] == transaction.to_be_bytes() && fixed[28..34] == mac && fixed[236..240] == COOKIE;
    if !ours {
        return None;
    }
    let (mut kind, mut server, mut mask, mut router, mut domain) = (None, None, None, None, None);
    let (mut dns, mut lease) = (Vec::new(), 3600);
    let mut rest = &message[FIXED..];
    while let [code, after @ ..] = rest {
        match *code {
            0 => {
                rest = after;
                continue;
            }
            END => break,
            _ => {}
        }
        let (length, after) = after.split_first()?;
        let value = after.get(..usize::from(*length))?;
        rest = &after[usize::from(*length)..];
        match *code {
            TYPE => {
                kind = match value {
                    [2] => Some(Kind::Offer),
                    [5] => Some(Kind::Ack),
                    [6] => Some(Kind::Nak),
                    _ => return None,
                }
            }
            SERVER => server = addresses(value).next(),
            MASK => mask = addresses(value).next(),
            ROUTER => router = addresses(value).next(),
            DNS => dns = addresses(value).collect(),
            LEASE => lease = u32::from_be_bytes(value.try_into().ok()?),
            DOMAIN => domain = domain_name(value),
            _ => {}
        }
    }
    let address = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    Some(Answer {
        kind: kind?,
        address,
        server: server?,
        mask: mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
        router,
        dns,
        domain,
        lease: Duration::from_secs(u64::from(lease)),
    })
}

fn addresses(value: &[u8]) -> impl Iterator<Item = Ipv4Addr> + '_ {
    value.chunks_exact(4).map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3]))
}

/// The domain goes into resolv.conf, so only characters of a name are accepted.
fn domain_name(value: &[u8]) -> Option<String> {
    let name = value.strip_suffix(b"\0").unwrap_or(value);
    let plain = !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'.');
    plain.then(|| String::from_utf8_lossy(name).into_owned())
}

/// `/etc/resolv.conf` for an answer.
pub fn resolv_conf(answer: &Answer) -> String {
    let mut text = String::new();
    if let Some(domain) = &answer.domain {
        text += &format!("search {domain}\n");
    }
    for server in &answer.dns {
        text += &format!("nameserver {server}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn reply(options: &[u8]) -> Vec<u8> {
        let mut m = ask(Question::Discover, 7, MAC, "");
        m[0] = 2;
        m[16..20].copy_from_slice(&[10, 0, 2, 15]);
        m.truncate(FIXED);
        m.extend_from_slice(options);
        m
    }

    #[test]
    fn an_offer_is_read() {
        let options = [
            &[53, 1, 2, 0, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2][..],
            &[6, 8, 10, 0, 2, 3, 1, 1, 1, 1, 51, 4, 0, 1, 0x51, 0x80, 15, 3, b'l', b'a', b'n', 255][..],
        ]
        .concat();
        let answer = parse(&reply(&options), 7, MAC).unwrap();
        assert_eq!((answer.kind, answer.address), (Kind::Offer, Ipv4Addr::new(10, 0, 2, 15)));
        assert_eq!(answer.lease, Duration::from_secs(86400));
        assert_eq!(resolv_conf(&answer), "search lan\nnameserver 10.0.2.3\nnameserver 1.1.1.1\n");
        assert_eq!(parse(&reply(&options), 8, MAC), None, "another transaction");
        assert_eq!(parse(&reply(&options), 7, [0; 6]), None, "another client");
    }

    #[test]
    fn a_domain_cannot_write_lines() {
        assert_eq!(domain_name(b"lan\nnameserver 6.6.6.6"), None);
    }

    #[test]
    fn a_renewal_names_its_address_and_needs_no_broadcast() {
        let m = ask(Question::Renew { address: Ipv4Addr::new(10, 0, 2, 15) }, 1, MAC, "builder");
        assert_eq!((&m[12..16], m[10]), (&[10, 0, 2, 15][..], 0));
        let m = ask(Question::Discover, 1, MAC, &"x".repeat(400));
        assert_eq!((&m[12..16], m[10]), (&[0; 4][..], 0x80));
    }

    proptest! {
        #[test]
        fn no_message_panics(noise in any::<Vec<u8>>()) {
            let _ = parse(&noise, 7, MAC);
            let _ = parse(&reply(&noise), 7, MAC);
        }

        #[test]
        fn no_truncated_message_panics(cut in 0usize..290) {
            let m = reply(&[53, 1, 5, 54, 4, 10, 0, 2, 2, 6, 4, 1, 2, 3, 4, 51, 4, 0, 0, 0, 9, 255]);
            let _ = parse(&m[..cut.min(m.len())], 7, MAC);
        }
    }
}
