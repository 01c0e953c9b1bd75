use super::*;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex},
    sync::mpsc,
};

/// QEMU's side of the monitor.
struct Monitor(BufReader<DuplexStream>);

impl Monitor {
    async fn pair() -> (VsockPort, Monitor) {
        let (ours, theirs) = duplex(4096);
        let mut monitor = Monitor(BufReader::new(theirs));
        monitor.say(json!({ "QMP": {} })).await;
        let qmp = Qmp::greet(ours, mpsc::unbounded_channel().0).await.unwrap();
        assert_eq!(monitor.hear().await["execute"], "qmp_capabilities");
        monitor.say(json!({ "return": {} })).await;
        (VsockPort::new(qmp, Path::new("/r")), monitor)
    }

    async fn say(&mut self, message: Value) {
        self.0.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Expects a command, and answers it.
    async fn answer(&mut self, command: &str, answer: Value) {
        let asked = self.hear().await;
        assert_eq!(asked["execute"], command, "{asked}");
        self.say(answer).await;
    }

    async fn remove(&mut self, device: &str) {
        self.say(json!({ "event": "DEVICE_DELETED", "data": { "path": "/machine/peripheral/x/virtio-backend" } }))
            .await;
        self.say(json!({ "event": "DEVICE_DELETED", "data": { "device": device, "path": "/p" } })).await;
    }

    async fn plugs_in_again(&mut self) {
        let done = || json!({ "return": {} });
        self.answer("chardev-remove", done()).await;
        // The helper does not listen yet.
        self.answer("chardev-add", json!({ "error": { "desc": "Failed to connect" } })).await;
        let asked = self.hear().await;
        let address = &asked["arguments"]["backend"]["data"]["addr"];
        assert_eq!(address["data"]["path"], "/r/vhost-vsock", "{asked}");
        self.say(done()).await;
        let asked = self.hear().await;
        assert_eq!(
            (&asked["execute"], &asked["arguments"]["bus"]),
            (&json!("device_add"), &json!(VSOCK_PORT)),
            "{asked}"
        );
        self.say(done()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_port_is_empty_during_the_work_and_stays_so_if_it_succeeds() {
    let (port, mut monitor) = Monitor::pair().await;
    let qmp = port.qmp.clone();
    let work = async { qmp.run("the-work").await.map(drop) };
    let qemu = async {
        monitor.answer("device_del", json!({ "return": {} })).await;
        monitor.remove("another").await;
        monitor.remove(VSOCK).await;
        monitor.answer("the-work", json!({ "return": {} })).await;
    };
    assert_eq!(tokio::join!(port.empty_during(work), qemu).0, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_device_comes_back_if_the_work_fails() {
    let (port, mut monitor) = Monitor::pair().await;
    let work = async { Err::<(), _>("no room".to_owned()) };
    let qemu = async {
        monitor.answer("device_del", json!({ "return": {} })).await;
        monitor.remove(VSOCK).await;
        monitor.plugs_in_again().await;
    };
    assert_eq!(tokio::join!(port.empty_during(work), qemu).0, Err("no room".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_releases_its_device_too_late_gets_it_back() {
    let (port, mut monitor) = Monitor::pair().await;
    let work = async { panic!("the device is still there") };
    let qemu = async {
        monitor.answer("device_del", json!({ "return": {} })).await;
        monitor
    };
    let (done, mut monitor): (Result<(), String>, _) = tokio::join!(port.empty_during(work), qemu);
    let why = done.unwrap_err();
    assert!(why.contains("20 seconds") && why.contains("still be booting"), "{why}");
    monitor.remove(VSOCK).await;
    monitor.answer("qom-list", json!({ "return": [{ "name": "type" }] })).await;
    monitor.plugs_in_again().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_another_attempt_brought_back_is_left_alone() {
    let (port, mut monitor) = Monitor::pair().await;
    let nothing = || async { Ok::<(), String>(()) };
    let refuses = async {
        monitor.answer("device_del", json!({ "return": {} })).await;
        monitor
    };
    let (_, mut monitor) = tokio::join!(port.empty_during(nothing()), refuses);
    let fails = async { Err::<(), _>("no room".to_owned()) };
    let qemu = async {
        monitor.answer("device_del", json!({ "return": {} })).await;
        monitor.remove(VSOCK).await;
        monitor.plugs_in_again().await;
        monitor.answer("qom-list", json!({ "return": [{ "name": VSOCK }] })).await;
    };
    assert_eq!(tokio::join!(port.empty_during(fails), qemu).0, Err("no room".to_owned()));
    // Nothing else was asked for.
    drop(port);
    assert_eq!(monitor.0.read_line(&mut String::new()).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_never_listens_again_is_an_error() {
    let (port, mut monitor) = Monitor::pair().await;
    let qemu = async {
        loop {
            monitor.answer("chardev-add", json!({ "error": { "desc": "Failed to connect" } })).await;
        }
    };
    let failed = tokio::select! {
        failed = port.plug_in() => failed,
        () = qemu => unreachable!(),
    };
    assert_eq!(failed, Err("Failed to connect".to_owned()));
}
