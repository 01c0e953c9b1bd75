//! What is refused, and that one guest cannot take resources from another.

use super::*;
use crate::operation::{Field, Operation};

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
            // The gate reads what the client still sends, so that the client can read the error, and then sends nothing
            // more.
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
async fn there_are_no_more_connections_than_allowed_and_further_ones_wait_their_turn() {
    let lab = Lab::with(Limits { connections: 3, ..Limits::default() });
    lab.add('a', "");
    let mut guests = vec![lab.guest().await, lab.guest().await, lab.guest().await];
    let (mut fourth, mut fifth) = (lab.dial().await, lab.dial().await);
    assert!(timeout(Duration::from_millis(200), fourth.greet(38)).await.is_err(), "it is not answered yet");
    fifth.say(b"{\"token\":\"secret\"}\n").await.unwrap();
    assert_eq!((lab.store.figures().connections, lab.store.figures().turned_away), (3, 0));
    assert!(guests[0].is_valid('a').await, "the others are not affected");

    // The client has sent its whole greeting, but not read the answers to it.
    guests.pop();
    let hello = Encoder::default().number(0).number(0);
    assert_eq!((fourth.from.number().await.unwrap(), fourth.from.number().await.unwrap()), (DAEMON_MAGIC, 1 << 8 | 35));
    fourth.say(hello.as_slice()).await.unwrap();
    fourth.from.text(100).await.unwrap();
    fourth.from.number().await.unwrap();
    fourth.outcome().await.unwrap().unwrap();
    assert!(fourth.is_valid('a').await);
    assert_eq!(lab.store.figures().connections, 3, "the fifth still waits");
    drop((guests, fourth, fifth));
    eventually("places to be free", || lab.store.figures().connections == 0).await;
    eventually("nothing to be held", || lab.world().held.is_empty()).await;
    assert_eq!(lab.store.figures().turned_away, 0);
    lab.guest().await;
}

/// The error that a refused client reads.
async fn refusal(guest: &mut Guest) -> String {
    let sent = [
        b"{\"token\":\"secret\"}\n",
        Encoder::default().number(CLIENT_MAGIC).number(1 << 8 | 38).number(0).number(0).as_slice(),
    ]
    .concat();
    guest.say(&sent).await.unwrap();
    assert_eq!((guest.from.number().await.unwrap(), guest.from.number().await.unwrap()), (DAEMON_MAGIC, 1 << 8 | 35));
    assert!(guest.from.text(99).await.unwrap().starts_with("darwin-vz-nix"));
    assert_eq!(guest.from.number().await.unwrap(), 2);
    guest.outcome().await.unwrap().unwrap_err()
}

#[tokio::test]
async fn a_client_that_waits_too_long_or_behind_too_many_gets_an_error_of_nix() {
    let turn = Duration::from_millis(300);
    let lab = Lab::with(Limits { connections: 1, queue: 2, turn, ..Limits::default() });
    let first = lab.guest().await;
    let mut waiting = [lab.dial().await, lab.dial().await];
    let [one, two] = &mut waiting;
    let begun = Instant::now();
    let (one, two, third) = tokio::join!(refusal(one), refusal(two), async {
        // Not before the other two are in the queue.
        sleep(turn / 3).await;
        let error = refusal(&mut lab.dial().await).await;
        (error, begun.elapsed())
    });
    assert!(third.1 < turn, "the queue is full, and the gate does not wait for that");
    assert!(begun.elapsed() >= turn);
    for error in [one, two, third.0] {
        assert!(error.contains("busy") && error.contains("of 1 connections"), "{error}");
    }
    assert_eq!((lab.store.figures().connections, lab.store.figures().turned_away), (1, 3));
    drop(first);
    lab.guest().await;
}

/// As many as builds that begin at once, each with its own nix-daemon in the guest, and none of which ends.
#[tokio::test]
async fn two_hundred_clients_are_served_at_once() {
    let lab = Lab::new();
    lab.add('a', "b");
    lab.add('b', "");
    let lab = &lab;
    let clients = (0..200).map(|_| async move {
        let mut guest = lab.guest().await;
        assert!(guest.is_valid('a').await);
        guest
    });
    let guests = futures_util::future::join_all(clients).await;
    let figures = lab.store.figures();
    assert_eq!((figures.connections, figures.turned_away), (200, 0));
    let temp_roots = &lab.store.inner.temp_roots;
    assert_eq!((temp_roots.held(), temp_roots.described()), (400, 2), "each holds, and what is known is known once");
    drop(guests);
    eventually("all to be given back", || temp_roots.held() == 0).await;
}

#[tokio::test]
async fn what_may_be_held_is_one_store_for_all_connections() {
    let lab = Lab::with(Limits { held: 3, ..Limits::default() });
    for letter in ['a', 'b', 'c', 'd'] {
        lab.add(letter, "");
    }
    let (mut one, mut two) = (lab.guest().await, lab.guest().await);
    assert_eq!(one.valid_of("ab").await, ['a', 'b']);
    assert_eq!(two.valid_of("a").await, ['a']);
    assert!(two.ask(1, &full('c')).await.unwrap_err().contains("more than 3 paths"));
    assert!(two.is_closed().await);
    assert!(one.is_valid('a').await, "what is held already costs nothing");
    eventually("what ends to give back", || lab.store.inner.temp_roots.held() == 2).await;
    assert!(lab.guest().await.is_valid('d').await);
}

#[tokio::test]
async fn a_long_answer_costs_as_much_as_many_short_ones() {
    let lab = Lab::with(Limits { rate: 10, ..Limits::default() });
    for (letter, references) in [('a', "abcdf"), ('b', ""), ('c', ""), ('d', ""), ('f', "")] {
        lab.add(letter, references);
    }
    let mut guest = lab.guest().await;
    let begun = Instant::now();
    // Of the burst of ten: two questions, and four paths that the first refers to.
    guest.info('a').await.unwrap();
    guest.info('b').await.unwrap();
    for _ in 0..5 {
        guest.say(Encoder::default().number(23).as_slice()).await.unwrap();
        guest.outcome().await.unwrap().unwrap();
        assert_eq!(guest.letters().await, ['a', 'b']);
    }
    // Five questions with two items each are fifteen, of which four were left.
    assert!(begun.elapsed() >= Duration::from_millis(1000), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn many_unauthenticated_connections_do_not_keep_the_agent_out() {
    let lab = Lab::with(Limits { unauthenticated: 8, ..Limits::default() });
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
async fn a_guest_that_does_not_read_delays_only_itself() {
    let lab = Lab::new();
    lab.add('a', "");
    let mut slow = lab.guest().await;
    let request = Encoder::default().number(26).bytes(full('a').as_bytes());
    let many = request.as_slice().repeat(10_000);
    let stuck = timeout(Duration::from_millis(300), slow.to.write_all(&many)).await;
    assert!(stuck.is_err(), "requests pile up with the guest, not here");
    assert!(lab.guest().await.is_valid('a').await);
    // Once it reads, it gets every answer.
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
