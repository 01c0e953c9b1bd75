use super::*;
use tokio::io::DuplexStream;

/// A simulated QEMU: it greets, and answers each line by the next of `answers`.
async fn qemu(stream: DuplexStream, answers: Vec<Value>) -> Vec<String> {
    let mut stream = BufReader::new(stream);
    let mut seen = Vec::new();
    stream.write_all(b"{\"QMP\": {\"version\": {}}}\r\n").await.unwrap();
    for answer in answers {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap() == 0 {
            break;
        }
        seen.push(line);
        stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
    }
    seen
}

#[tokio::test]
async fn commands_are_answered_in_order_with_events_between() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (shutdown, mut causes) = mpsc::unbounded_channel();
    let event = |reason| json!({"event": "SHUTDOWN", "data": {"guest": true, "reason": reason}});
    let answers = vec![json!({"return": {}}), json!({"return": {"status": "running"}}), event("guest-reset")];
    let peer = tokio::spawn(qemu(theirs, answers));
    let qmp = Qmp::greet(ours, shutdown).await.unwrap();
    assert_eq!(qmp.run("query-status").await.unwrap()["status"], "running");
    assert_eq!(qmp.run("system_powerdown").await, Err("QEMU is gone".into()), "only an event came, then the end");
    drop(qmp);
    assert_eq!(causes.recv().await, Some(ShutdownCause::Reset));
    assert_eq!(peer.await.unwrap()[1].trim(), r#"{"execute":"query-status"}"#);
}

/// A power button is pressed again while QEMU ends: the press fails, and the reason for the end comes all the same.
#[tokio::test]
async fn a_command_that_cannot_be_sent_loses_no_event() {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let (shutdown, mut causes) = mpsc::unbounded_channel();
    let mut peer = BufReader::new(theirs);
    peer.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
    let qmp = Qmp::greet(ours, shutdown).await.unwrap();
    peer.read_line(&mut String::new()).await.unwrap();
    rustix::net::shutdown(peer.get_ref(), rustix::net::Shutdown::Read).unwrap();
    assert_eq!(qmp.run("system_powerdown").await, Err("QEMU is gone".into()));
    let event = json!({"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}});
    peer.write_all(format!("{event}\r\n").as_bytes()).await.unwrap();
    assert_eq!(causes.recv().await, Some(ShutdownCause::Guest));
}

#[tokio::test]
async fn a_refusal_is_an_error_with_qemus_message() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let answers = vec![json!({"return": {}}), json!({"error": {"class": "X", "desc": "not now"}})];
    tokio::spawn(qemu(theirs, answers));
    let qmp = Qmp::greet(ours, mpsc::unbounded_channel().0).await.unwrap();
    assert_eq!(qmp.run("system_powerdown").await, Err("not now".into()));
}

#[tokio::test]
async fn dropping_the_client_closes_the_monitor() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let peer = tokio::spawn(qemu(theirs, vec![json!({"return": {}}), json!({"return": {}})]));
    let qmp = Qmp::greet(ours, mpsc::unbounded_channel().0).await.unwrap();
    drop(qmp);
    let seen = tokio::time::timeout(std::time::Duration::from_secs(20), peer).await.unwrap().unwrap();
    assert_eq!(seen.len(), 1, "the capabilities, and then the end: {seen:?}");
}

#[tokio::test]
async fn another_program_is_not_taken_for_qemu() {
    for hello in ["{}\n", "garbage\n", ""] {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(hello.as_bytes()).await.unwrap();
        drop(theirs);
        assert!(Qmp::greet(ours, mpsc::unbounded_channel().0).await.is_err(), "{hello:?}");
    }
}

#[tokio::test]
async fn a_migration_sees_its_own_events_and_none_of_an_earlier_one() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let mut qemu = BufReader::new(theirs);
    qemu.write_all(b"{\"QMP\": {}}\n").await.unwrap();
    let qmp = Qmp::greet(ours, mpsc::unbounded_channel().0).await.unwrap();
    let mut asked = String::new();
    qemu.read_line(&mut asked).await.unwrap();
    let line = |message: Value| format!("{message}\n").into_bytes();
    let status = |status: &str| line(json!({"event": "MIGRATION", "data": {"status": status}}));
    qemu.write_all(&line(json!({"return": {}}))).await.unwrap();

    let mut first = qmp.migration();
    let first = tokio::spawn(async move { first.done().await });
    for word in ["setup", "active", "failed"] {
        qemu.write_all(&status(word)).await.unwrap();
    }
    asked.clear();
    qemu.read_line(&mut asked).await.unwrap();
    assert_eq!(asked.trim(), r#"{"execute":"query-migrate"}"#);
    qemu.write_all(&line(json!({"return": {"status": "failed", "error-desc": "no room"}}))).await.unwrap();
    assert_eq!(first.await.unwrap(), Err("no room".into()));

    let mut second = qmp.migration();
    qemu.write_all(&status("completed")).await.unwrap();
    assert_eq!(second.done().await, Ok(()));
    drop(qemu);
    assert_eq!(qmp.migration().done().await, Err("QEMU is gone".into()));
}
