//! The events of a real build.

use crate::lab::{Door, Lab, stdout_of};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

/// Events of the API from now on; gives up after a long silence.
fn events(lab: &Lab) -> impl Iterator<Item = Value> {
    let mut stream = UnixStream::connect(lab.state().join("api.sock")).unwrap();
    stream.set_read_timeout(Some(crate::lab::TIMEOUT)).unwrap();
    write!(stream, "GET /v1/events HTTP/1.0\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let head = lines.next().unwrap().unwrap();
    assert!(head.contains(" 200 "), "{head}");
    lines.filter_map(|line| Some(serde_json::from_str(line.expect("an event").strip_prefix("data:")?).unwrap()))
}

#[test]
fn a_build_is_reported_when_it_begins_and_when_it_ends() {
    let lab = Lab::running("");
    lab.ok(&["start"]);
    let mut events = events(&lab);
    let build = std::thread::spawn({
        // Longer than two queries of the guest.
        let mut build = lab.build(Door::Direct, "watched", "sleep 12; echo done > $out");
        move || build.output().unwrap()
    });
    let mut heard = Vec::new();
    while heard.last() != Some(&("builds".to_owned(), Some(0))) {
        let event = events.next().unwrap();
        assert_eq!(event["machine"], "builder", "{event}");
        let kind = event["event"].as_str().unwrap().to_owned();
        if ["opened", "closed", "builds"].contains(&&*kind) {
            heard.push((kind, event["running"].as_u64()));
        }
    }
    stdout_of(&build.join().unwrap(), "the build");
    let builds: Vec<_> = heard.iter().filter(|(kind, _)| kind == "builds").map(|(_, running)| *running).collect();
    assert_eq!(builds, [Some(1), Some(0)], "{heard:?}");
    let at = |wanted: &str| heard.iter().position(|(kind, _)| kind == wanted).unwrap();
    assert!(at("opened") < at("builds"), "{heard:?}");
    // Long before an idle stop, for which the guest would be queried, too.
    assert!(lab.is("running"));
    let metrics = lab.api("/v1/metrics");
    for line in ["darwin_vz_builds{machine=\"builder\"} 0", "darwin_vz_builds_seen_total{machine=\"builder\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
