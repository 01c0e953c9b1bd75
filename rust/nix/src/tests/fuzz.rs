//! For any input from a guest, the gate neither panics nor hangs, serves the next connection, and sends only queries to
//! the host's daemon. (The fake daemon panics at anything else, and its record is checked.)

use super::*;
use proptest::{collection::vec, prelude::*, sample::select};

/// Something that looks like part of a request.
fn part() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0_u64..64).prop_map(|number| Encoder::default().number(number).as_slice().to_vec()),
        any::<u64>().prop_map(|number| number.to_le_bytes().to_vec()),
        select(vec!['a', 'b', 'f'])
            .prop_map(|letter| Encoder::default().bytes(full(letter).as_bytes()).as_slice().to_vec()),
        vec(select(vec!['a', 'b', 'f']), 0..4).prop_map(|letters| {
            let paths: Vec<_> = letters.into_iter().map(full).collect();
            Encoder::default().list(&paths).as_slice().to_vec()
        }),
        any::<Vec<u8>>().prop_map(|bytes| Encoder::default().bytes(&bytes).as_slice().to_vec()),
        any::<Vec<u8>>(),
    ]
}

async fn send(lab: &Lab, greeted: bool, parts: &[Vec<u8>]) {
    let mut guest = lab.dial().await;
    if greeted {
        guest.greet(38).await.unwrap();
    }
    let bytes = parts.concat();
    let Guest { from, mut to } = guest;
    let reading = async {
        let mut from = from.0;
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    };
    let writing = async {
        let _ = to.write_all(&bytes).await;
        let _ = to.shutdown().await;
    };
    timeout(TIMEOUT, async { tokio::join!(reading, writing) }).await.expect("the connection ends");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_break_it(greeted in prop::bool::weighted(0.9), parts in vec(part(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lab = Lab::new();
            lab.add('a', "b");
            lab.add('b', "");
            send(&lab, greeted, &parts).await;
            assert!(lab.guest().await.is_valid('a').await);
            let world = lab.world();
            assert!(world.asked.iter().all(|(_, operation, _)| [6, 11, 26, 29, 33, 41].contains(operation)));
            world.assert_held_before_asked();
        });
    }
}
