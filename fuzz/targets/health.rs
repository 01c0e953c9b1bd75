//! The guest's nix-daemon, as the host has it build something. The input is all that it says.
//!
//! * It comes to an end, in time and without room for more than a text.
//! * Fit is only who says in the worker protocol that it has built, and that what it has built is valid.

#![no_main]

use darwin_vz_nix_fuzz::{assert_told, in_virtual_time};
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
            assert_told(&report);
            assert!(report.message.chars().count() < 700, "{report:?}");
        }
    }
});

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
