//! What is refused, and what one guest cannot take from another.

use super::*;
use crate::store::operation::{Field, Operation};

fn body(fields: &[Field]) -> Encoder {
    fields.iter().fold(Encoder::default(), |so_far, field| match field {
        Field::Number => so_far.number(1),
        Field::String => so_far.bytes(full('a').as_bytes()),
        Field::List => so_far.list(&[full('a'), full('b')]),
        Field::Map => so_far.number(1).bytes(full('a').as_bytes()).bytes(b""),
    })
}

#[tokio::test]
async fn what_would_change_the_store_is_refused_by_name_and_the_connection_stays_in_step_where_it_can() {
    let lab = Lab::new();
    lab.add('a', "");
    let mut denied = 0;
    for number in (0..64).chain([1000, u64::MAX]) {
        let operation = Operation::of(number);
        let mut guest = lab.guest().await;
        guest.say(Encoder::default().number(number).as_slice()).await.unwrap();
        let (name, stays) = match operation {
            Operation::Allowed(_) => continue,
            Operation::Refused { name, body: Some(fields) } => {
                guest.say(body(fields).as_slice()).await.unwrap();
                (name.to_owned(), true)
            }
            Operation::Refused { name, body: None } => (name.to_owned(), false),
            Operation::Unknown => (number.to_string(), false),
        };
        let error = guest.outcome().await.unwrap().unwrap_err();
        assert!(error.contains("read-only") && error.contains(&name), "{number}: {error}");
        denied += 1;
        if stays {
            assert!(guest.is_valid('a').await, "{name}");
        } else {
            // What the client is still sending is taken, so that it can read why; and then nothing more is said.
            guest.say(&[7; 100_000]).await.unwrap();
            guest.to.shutdown().await.unwrap();
            assert!(guest.is_closed().await, "{name}");
        }
    }
    assert_eq!(lab.store.figures().denied, denied);
    let asked: Vec<_> = lab.world().asked.iter().map(|(_, operation, _)| *operation).collect();
    assert!(asked.iter().all(|operation| [11, 26].contains(operation)), "{asked:?}");
}

#[tokio::test]
async fn settings_are_read_and_forgotten() {
    let lab = Lab::new();
    let mut guest = lab.guest().await;
    let mut settings = (0..12).fold(Encoder::default().number(19), |so_far, n| so_far.number(n));
    settings = settings.number(2).bytes(b"trusted-users").bytes(b"*").bytes(b"x").bytes(&[b'y'; 100_000]);
    guest.say(settings.as_slice()).await.unwrap();
    guest.outcome().await.unwrap().unwrap();
    guest.say(Encoder::default().number(32).list(&[full('a')]).as_slice()).await.unwrap();
    guest.outcome().await.unwrap().unwrap();
    assert_eq!(guest.letters().await, []);
    guest.ask(43, "sha256:abc!out").await.unwrap();
    assert_eq!(guest.from.number().await.unwrap(), 0);
    guest.ask(11, &full('b')).await.unwrap();
    assert_eq!(guest.from.number().await.unwrap(), 1);
    assert_eq!(lab.world().count(11), 1);
    assert_eq!(lab.world().asked.len(), 2);
}

#[tokio::test]
async fn claims_and_floods_end_the_connection() {
    let lab = Lab::with(Limits { held: 3, list: 1000, ..Limits::default() });
    let huge = Encoder::default().number(1).number(u64::MAX);
    let list = Encoder::default().number(31).number(1001);
    let pairs = (0..13).fold(Encoder::default().number(19), |so_far, _| so_far.number(1 << 50));
    let unpadded = Encoder::default().number(1).number(1).number(u64::MAX);
    for (bytes, why) in [(huge, "limit"), (list, "limit"), (pairs, "limit"), (unpadded, "padded")] {
        let mut guest = lab.guest().await;
        guest.say(bytes.as_slice()).await.unwrap();
        let error = guest.outcome().await.unwrap().unwrap_err();
        assert!(error.contains(why), "{error}");
        guest.to.shutdown().await.unwrap();
        assert!(guest.is_closed().await);
    }
    let mut guest = lab.guest().await;
    for bad in ["/etc/passwd", "/nix/store/../../etc", "", "\n", &full('a').replace('a', "A")] {
        assert!(guest.ask(1, bad).await.unwrap_err().contains("is not a path"), "{bad}");
    }
    assert!(!guest.is_valid('a').await && !guest.is_valid('b').await && !guest.is_valid('c').await);
    assert!(guest.ask(1, &full('d')).await.unwrap_err().contains("more than 3 paths"));
    assert_eq!(lab.world().count(11), 3);
}

#[tokio::test]
async fn there_are_no_more_connections_than_allowed() {
    let lab = Lab::with(Limits { connections: 3, ..Limits::default() });
    let mut guests = [lab.guest().await, lab.guest().await, lab.guest().await];
    let mut fourth = lab.dial().await;
    let _ = fourth.say(b"{\"token\":\"secret\"}\n").await;
    assert!(fourth.is_closed().await);
    assert_eq!((lab.store.figures().connections, lab.store.figures().turned_away), (3, 1));
    assert!(!guests[0].is_valid('a').await);
    drop(guests);
    eventually("places to be free", || lab.store.figures().connections == 0).await;
    assert!(lab.world().held.is_empty());
    lab.guest().await;
}

#[tokio::test]
async fn a_crowd_of_strangers_does_not_keep_the_agent_out() {
    let lab = Lab::with(Limits { strangers: 8, ..Limits::default() });
    let mut crowd = Vec::new();
    for _ in 0..10_000 {
        crowd.push(lab.dial().await);
    }
    let mut guest = lab.guest().await;
    assert!(!guest.is_valid('a').await);
    assert_eq!(lab.store.figures().connections, 1);
    eventually("the crowd to be turned away", || lab.store.figures().turned_away >= 10_000 - 8).await;
}

#[tokio::test]
async fn a_guest_that_does_not_read_holds_up_nobody_but_itself() {
    let lab = Lab::new();
    lab.add('a', "");
    let mut slow = lab.guest().await;
    let request = Encoder::default().number(26).bytes(full('a').as_bytes());
    let many = request.as_slice().repeat(10_000);
    let stuck = timeout(Duration::from_millis(300), slow.to.write_all(&many)).await;
    assert!(stuck.is_err(), "requests pile up with the guest, not here");
    assert!(lab.guest().await.is_valid('a').await);
    // And once it reads, it gets every answer.
    for _ in 0..20 {
        slow.outcome().await.unwrap().unwrap();
        slow.description().await.unwrap();
    }
}

#[tokio::test]
async fn a_long_list_is_answered_in_one() {
    let lab = Lab::new();
    lab.add('a', "");
    let mut names: Vec<String> = (0..5000).map(|n| format!("/nix/store/{}-{n}", "b".repeat(32))).collect();
    names.insert(3000, full('a'));
    let mut guest = lab.guest().await;
    let request = Encoder::default().number(31).list(&names).number(0);
    guest.say(request.as_slice()).await.unwrap();
    guest.outcome().await.unwrap().unwrap();
    assert_eq!(guest.letters().await, ['a']);
    assert!(guest.is_valid('a').await);
}
