//! The guest's nix-daemon, when the host lets it build something. The input is everything that it sends.
//!
//! * The conversation ends, in bounded time and memory.
//! * The guest counts as fit only if the worker protocol reports a finished build with a valid result.

#![no_main]

use darwin_vz_nix_fuzz::{assert_informative, in_virtual_time};
use dvn_generations::ask_to_build;
use dvn_types::Arch;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;

fuzz_target!(|data: &[u8]| {
    let outcome = in_virtual_time(async {
        let (mut daemon, ours) = tokio::io::duplex(data.len() + 4096);
        daemon.write_all(data).await.expect("room");
        daemon.shutdown().await.expect("a pipe");
        ask_to_build(Box::new(ours), Arch::X86_64).await
    });
    match outcome {
        Ok(()) => {
            let words: Vec<u64> = data.chunks_exact(8).map(word).collect();
            assert_eq!(words.first(), Some(&0x6478_696f), "it never greeted");
            let ends = words.windows(2).filter(|pair| pair[0] == 0x616c_7473).count();
            let said = |word| words.windows(2).any(|pair| pair == [0x616c_7473, word]);
            assert!(ends >= 3 && said(0) && said(1), "it never said so");
        }
        Err(report) => {
            assert_informative(&report);
            assert!(report.message.chars().count() < 700, "{report:?}");
        }
    }
});

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
