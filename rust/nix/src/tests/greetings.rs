//! Which clients are accepted, and in which protocol versions.

use super::*;

#[tokio::test]
async fn every_dialect_since_nix_2_18_is_brought_down_to_one() {
    for minor in 35..=60 {
        let lab = Lab::new();
        lab.add('a', "");
        lab.world().quirks.minor = minor;
        let mut guest = lab.dial().await;
        guest.greet(minor).await.unwrap();
        assert!(guest.is_valid('a').await, "1.{minor}");
        assert!(matches!(lab.store.figures().upstream, crate::UpstreamState::Answers { version } if version == "2.99"));
    }
}

#[tokio::test]
async fn older_ones_get_an_error_in_a_form_they_read() {
    let lab = Lab::new();
    let mut guest = lab.dial().await;
    guest.say(b"{\"token\":\"secret\"}\n").await.unwrap();
    let hello = Encoder::default().number(CLIENT_MAGIC).number(1 << 8 | 34).number(0).number(0);
    guest.say(hello.as_slice()).await.unwrap();
    assert_eq!((guest.from.number().await.unwrap(), guest.from.number().await.unwrap()), (DAEMON_MAGIC, 1 << 8 | 35));
    assert!(guest.from.text(99).await.unwrap().starts_with("darwin-vz-nix"));
    let error = guest.outcome().await.unwrap().unwrap_err();
    assert!(error.contains("1.34") && error.contains("2.18"), "{error}");

    lab.world().quirks.minor = 34;
    let error = lab.store.open_session().await.unwrap_err();
    assert!(error.message.contains("1.34") && error.hints[0].contains("update Nix"), "{error:?}");
}

#[tokio::test]
async fn only_the_token_lets_in() {
    let lab = Lab::new();
    let long = format!("{{\"token\":\"{}\"}}\n", "x".repeat(5000));
    let padded = format!("{}{{\"token\":\"secret\"}}\n", " ".repeat(4096));
    let strangers =
        ["{\"token\":\"guess\"}\n", "secret\n", "\n", "\u{0}\n", &long, &padded, "{\"token\":[\"secret\"]}\n"];
    for stranger in strangers {
        let mut guest = lab.dial().await;
        let hello = Encoder::default().number(CLIENT_MAGIC).number(1 << 8 | 38);
        let _ = guest.to.write_all(&[stranger.as_bytes(), hello.as_slice()].concat()).await;
        assert!(guest.is_closed().await, "{stranger}");
    }
    assert_eq!(lab.store.figures().turned_away, strangers.len() as u64);
    assert_eq!(lab.world().asked.len(), 0);
    lab.guest().await;
}

#[tokio::test]
async fn a_silent_client_is_disconnected() {
    let lab = Lab::with(Limits { greeting: Duration::from_millis(30), ..Limits::default() });
    let mut silent = lab.dial().await;
    assert!(silent.is_closed().await);
    let mut half = lab.dial().await;
    half.say(b"{\"token\":\"secret\"}\n").await.unwrap();
    assert!(half.is_closed().await);
    eventually("its place to be free", || lab.store.figures().connections == 0).await;
}
