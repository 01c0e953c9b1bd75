//! The agent's inputs in the guest, except for the boot payload. The first byte selects the kind of the rest: lines
//! from the host, an answer of a DHCP server, or the first bytes of a disk.
//!
//! * Lines do not depend on how their bytes arrive, and none exceeds the limit.
//! * A parsed request is unchanged after it is written and parsed again.
//! * An address is accepted only in answer to our question, and resolv.conf contains only names and addresses.
//! * A disk is kept only if its superblock has the checksum that the kernel wrote.

#![no_main]

use dvn_protocol::{
    messages::Request,
    superblock::{self, Verdict},
};
use libfuzzer_sys::fuzz_target;
use lines::{Line, Lines};
use std::io::Read;

#[path = "../../rust/agent/src/pid1/net/dhcp.rs"]
#[allow(dead_code, reason = "only the agent sends requests")]
mod dhcp;
#[path = "../../rust/agent/src/pid1/channel/lines.rs"]
mod lines;

fuzz_target!(|data: &[u8]| match data {
    [b'l', rest @ ..] => of_the_host(rest),
    [b'd', rest @ ..] => of_a_server(rest),
    [b's', rest @ ..] => of_a_disk(rest),
    _ => {}
});

const LONGEST: usize = 512;

/// Returns its bytes in pieces whose sizes the bytes themselves encode.
struct Pieces<'a>(&'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let most = self.0.first().map_or(0, |byte| usize::from(*byte).max(1));
        let n = most.min(into.len()).min(self.0.len());
        into[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

fn of_the_host(bytes: &[u8]) {
    let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // The bytes after the last newline.
    expected.pop();
    let mut expected = expected.into_iter();
    let mut lines = Lines::new(Pieces(bytes), LONGEST);
    while let Ok(Some(line)) = lines.next() {
        let meant = expected.next().expect("no more lines than newlines");
        match line {
            Line::TooLong => assert!(meant.len() >= LONGEST),
            Line::Whole(line) => {
                assert!(line == meant && line.len() < LONGEST);
                if let Ok(request) = serde_json::from_slice::<Request>(&line) {
                    let again = serde_json::to_vec(&request).expect("JSON");
                    assert!(!again.contains(&b'\n'));
                    assert_eq!(serde_json::from_slice::<Request>(&again).ok(), Some(request));
                }
            }
        }
    }
    assert_eq!(expected.next(), None);
}

fn of_a_server(message: &[u8]) {
    const TRANSACTION: u32 = 0x6475_7631;
    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    let Some(answer) = dhcp::parse(message, TRANSACTION, MAC) else { return };
    assert!(message[4..8] == TRANSACTION.to_be_bytes() && message[28..34] == MAC);
    assert!(answer.dns.len() <= 63, "more than an option holds");
    for line in dhcp::resolv_conf(&answer).lines() {
        let (word, value) = line.split_once(' ').expect("a word and a value");
        match word {
            "search" => assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.'), "{line:?}"),
            "nameserver" => assert!(value.parse::<std::net::Ipv4Addr>().is_ok(), "{line:?}"),
            _ => panic!("{line:?}"),
        }
    }
}

fn of_a_disk(head: &[u8]) {
    let _ = superblock::image(head);
    match superblock::judge(head) {
        Verdict::Clean { bytes } => {
            let block = &head[1024..2048];
            let clean = block[0x3a] & 1 == 1 && block[0x3a] & 2 == 0;
            assert!(bytes > 0 && clean && block[0x38..0x3a] == [0x53, 0xef], "{bytes}");
            let has_sum = block[0x65] & 4 != 0;
            assert!(!has_sum || block[0x3fc..] == checksum(&block[..0x3fc]).to_le_bytes());
        }
        Verdict::Blank => assert!(head.iter().all(|byte| *byte == 0)),
        Verdict::Unusable(why) => assert!(!why.is_empty()),
    }
}

/// CRC-32C, by its definition: the remainder of a division, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    let mut register = u32::MAX;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |n| byte >> n & 1)) {
        let carry = register & 1 != u32::from(bit);
        register = (register >> 1) ^ if carry { 0x82f6_3b78 } else { 0 };
    }
    register
}
