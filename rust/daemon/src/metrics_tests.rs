//! The metrics of a machine in memory, read by a strict parser.

use super::{
    events::Events,
    metrics::{Sample, render},
};
use crate::metrics::Load;
use dvn_hypervisor::{
    sim::{Script, Sim},
    sim_agent,
};
use dvn_lifecycle::{Handle, InMemory, Policy};
use dvn_types::{MachineName, Service};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

const POLICY: Policy = Policy { grace: Duration::from_secs(5), ..Policy::TIMELESS };

/// A value by its name and labels as they are written.
type Values = BTreeMap<String, f64>;

/// Parses OpenMetrics 1.0, as far as the daemon uses it: each family has its type and help before its samples, which are
/// together; names and labels are well formed and none comes twice; counters end in `_total`, buckets grow; the end is marked.
fn parse(text: &str) -> Result<Values, String> {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let (mut values, mut families) = (Values::new(), BTreeSet::new());
    let (mut family, mut kind, mut helped, mut bucket) = (String::new(), String::new(), false, 0.0);
    let body = text.strip_suffix("# EOF\n").ok_or("the end is not marked")?;
    for line in body.lines() {
        let wrong = |why: &str| format!("{why}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or(wrong("no help"))?;
            if !word(name) || !families.insert(name.to_owned()) || !help.ends_with('.') {
                return Err(wrong("a name or help that is none, or a family in two parts"));
            }
            (family, kind, helped) = (name.to_owned(), String::new(), true);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, given) = rest.split_once(' ').ok_or(wrong("no type"))?;
            if name != family || !helped || !["counter", "gauge", "histogram"].contains(&given) {
                return Err(wrong("a type of something else"));
            }
            kind = given.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').ok_or(wrong("no value"))?;
            let value: f64 = value.parse().map_err(|_| wrong("no number"))?;
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').ok_or(wrong("labels without an end"))?),
                None => (series, ""),
            };
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once('=').ok_or(wrong("a label without a value"))?;
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                if !word(name) || value.is_none_or(|value| value.contains(['"', '\\'])) {
                    return Err(wrong("a label that is none"));
                }
            }
            let suffix = name.strip_prefix(family.as_str()).ok_or(wrong("a sample of another family"))?;
            let fits = match kind.as_str() {
                "counter" => suffix == "_total" && value >= 0.0,
                "gauge" => suffix.is_empty(),
                "histogram" => ["_sum", "_count", "_bucket"].contains(&suffix),
                _ => false,
            };
            if suffix == "_bucket" {
                let first = value < bucket && labels.contains("le=\"1.0\"");
                if value < bucket && !first {
                    return Err(wrong("a bucket that shrinks"));
                }
                bucket = value;
            }
            if !fits || values.insert(series.to_owned(), value).is_some() {
                return Err(wrong("a sample that does not fit its type, or comes twice"));
            }
        }
    }
    Ok(values)
}

fn name() -> MachineName {
    "builder".parse().unwrap()
}

fn machine(script: Script) -> (Sim, Handle) {
    let sim = Sim::new(script);
    let provider = Arc::new(InMemory::with(sim_agent::detached()));
    (sim.clone(), dvn_lifecycle::spawn(name(), Arc::new(sim), provider, POLICY))
}

fn read(handle: &Handle, events: &Events, load: Option<Load>) -> Values {
    let sample = Sample { name: name(), snapshot: handle.snapshot(), builds: events.builds_of(&name()), load };
    let text = render(&[sample], &[], events).unwrap();
    parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

#[tokio::test(start_paused = true)]
async fn the_metrics_of_a_machine_through_boot_pause_and_restart() {
    let (sim, handle) = machine(Script::default());
    let events = Arc::new(Events::default());
    let value = |values: &Values, series: &str| {
        let series = format!("darwin_vz_{series}");
        *values.get(&series).unwrap_or_else(|| panic!("no {series} in {values:#?}"))
    };
    let at_first = read(&handle, &events, None);
    assert_eq!(value(&at_first, r#"machine_state{machine="builder",state="stopped"}"#), 1.0);
    assert_eq!(value(&at_first, r#"boots_total{machine="builder"}"#), 0.0);

    sim.rescript(|script| script.boot_error = Some("no".into()));
    handle.acquire().await.unwrap_err();
    sim.rescript(|script| script.boot_error = None);
    let lease = handle.acquire().await.unwrap();
    events.booted(&name(), &handle.snapshot().last_boot.unwrap());
    let record = events.connection_opened(&name(), Service::Ssh);
    events.builds(&name(), 3);
    events.builds(&name(), 1);
    let load = Load { memory_total: 4, memory_available: 3, disk_total: 2, disk_available: 1 };
    let running = read(&handle, &events, Some(load));
    for (series, expected) in [
        (r#"machine_state{machine="builder",state="running"}"#, 1.0),
        (r#"machine_state{machine="builder",state="stopped"}"#, 0.0),
        (r#"leases{machine="builder"}"#, 1.0),
        (r#"boots_total{machine="builder"}"#, 2.0),
        (r#"boots_ready_total{machine="builder"}"#, 1.0),
        (r#"boots_failed_total{machine="builder"}"#, 1.0),
        (r#"boot_seconds_count{machine="builder"}"#, 1.0),
        (r#"boot_seconds_bucket{le="1.0",machine="builder"}"#, 1.0),
        (r#"boot_phase_seconds{machine="builder",phase="hypervisor"}"#, 0.3),
        (r#"connections_total{machine="builder",door="ssh"}"#, 1.0),
        (r#"connections_open{machine="builder",door="ssh"}"#, 1.0),
        (r#"connection_bytes_total{machine="builder",door="ssh",direction="to-guest"}"#, 0.0),
        (r#"builds{machine="builder"}"#, 1.0),
        (r#"builds_seen_total{machine="builder"}"#, 3.0),
        (r#"guest_memory_bytes{machine="builder",what="available"}"#, 3.0),
        (r#"guest_disk_bytes{machine="builder",what="total"}"#, 2.0),
    ] {
        assert_eq!(value(&running, series), expected, "{series}");
    }

    drop((lease, record));
    sleep(Duration::from_secs(60)).await;
    handle.pause().await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    let paused = read(&handle, &events, None);
    let idle = value(&paused, r#"idle_seconds_total{machine="builder"}"#);
    assert!((60.0..61.0).contains(&idle), "a pause is no idle time: {idle}");
    assert_eq!(value(&paused, r#"machine_state{machine="builder",state="paused"}"#), 1.0);
    assert_eq!(value(&paused, r#"pauses_total{machine="builder"}"#), 1.0);
    assert_eq!(value(&paused, r#"connections_open{machine="builder",door="ssh"}"#), 0.0);

    let (stopped, lease) = tokio::join!(handle.stop(false), async {
        sleep(Duration::from_millis(100)).await;
        handle.acquire().await
    });
    stopped.unwrap();
    drop(lease.unwrap());
    let restarted = read(&handle, &events, None);
    assert_eq!(value(&restarted, r#"restarts_total{machine="builder"}"#), 1.0);
    assert_eq!(value(&restarted, r#"guest_exits_total{machine="builder",how="powered-off"}"#), 1.0);
}

#[test]
fn the_parser_is_strict() {
    let good = "# HELP a A.\n# TYPE a counter\na_total{b=\"c\"} 1\n# EOF\n";
    assert_eq!(parse(good).unwrap().len(), 1);
    for (from, to) in [
        ("# EOF\n", ""),
        ("# TYPE a counter\n", ""),
        ("counter", "gauge"),
        ("a_total", "b_total"),
        ("a_total{b=\"c\"} 1\n", "a_total{b=\"c\"} 1\na_total{b=\"c\"} 1\n"),
        ("} 1", "} one"),
        ("\"c\"", "c"),
        ("# TYPE", "# HELP a A.\n# TYPE"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(bad != good && parse(&bad).is_err(), "{bad}");
    }
}
