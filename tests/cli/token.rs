//! The API's token on TCP: printing, creation, rotation.

use super::{common::Server, program, run, transcript};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt},
};

fn printed(text: &str) -> String {
    text.strip_prefix("exit 0\n--- stdout\n").unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}

fn is_accepted(address: SocketAddr, token: &str) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET /v1/health HTTP/1.1\r\nHost: {address}\r\nConnection: close");
    write!(stream, "{head}\r\nAuthorization: Bearer {token}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    match answer.split_whitespace().nth(1) {
        Some("200") => true,
        Some("401") => false,
        _ => panic!("{answer}"),
    }
}

#[test]
fn it_is_made_once_and_changed_on_demand() {
    let dir = crate::common::private_dir();
    let file = dir.path().join("api-token");
    std::fs::write(dir.path().join("config.toml"), "api-listen = \"127.0.0.1:31180\"\n").unwrap();
    assert_eq!(run(dir.path(), &["token", "--path"]), "exit 0\n--- stdout\n[DIR]/api-token\n");
    assert!(!file.exists(), "to ask where it is makes nothing");
    let first = printed(&run(dir.path(), &["token"]));
    assert_eq!((first.len(), std::fs::read_to_string(&file).unwrap().trim()), (64, first.as_str()));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(printed(&run(dir.path(), &["token"])), first);
    let second = printed(&run(dir.path(), &["token", "--rotate"]));
    assert_ne!(second, first);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let json: serde_json::Value = serde_json::from_str(&printed(&run(dir.path(), &["token", "--json"]))).unwrap();
    let expected = serde_json::json!({"token": second, "path": "[DIR]/api-token", "apiListen": "127.0.0.1:31180"});
    assert_eq!(json, expected);
    // An invalid file is reported, and the hint repairs it.
    std::fs::write(&file, "short").unwrap();
    let text = run(dir.path(), &["token"]);
    assert!(
        text.starts_with("exit 9\n") && text.contains("hint: make a new one: `darwin-vz-nix token --rotate`"),
        "{text}"
    );
    assert_eq!(printed(&run(dir.path(), &["token", "--rotate"])).len(), 64);
}

#[test]
fn a_token_that_no_listener_uses_is_printed_with_a_note() {
    let dir = crate::common::private_dir();
    let output = program(dir.path(), &["token"]).output().unwrap();
    assert_eq!(output.stdout.len(), 65, "stdout has the token alone, for `$(darwin-vz-nix token)`");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("set api-listen"), "{said}");
    let mut quiet = program(dir.path(), &["--log-level", "error", "token"]);
    assert!(quiet.output().unwrap().stderr.is_empty());
    // A directory that others can enter is refused.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = transcript(dir.path(), program(dir.path(), &["token", "--rotate"]));
    assert!(refused.starts_with("exit 9\n") && refused.contains("chmod 700"), "{refused}");
}

/// `sudo darwin-vz-nix token --rotate`, where the service has its own user.
#[test]
fn what_root_makes_in_another_users_directory_is_that_users() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = crate::common::private_dir();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&state, Some(4000), Some(4001)).unwrap();
    for args in [&["token"][..], &["token", "--rotate"]] {
        let output = program(dir.path(), &[&["--state-dir", "state"], args].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let file = std::fs::metadata(state.join("api-token")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (4000, 4001, 0o600), "{args:?}");
    }
}

#[test]
fn a_daemon_that_runs_goes_by_the_new_one_at_once() {
    let server = Server::on_tcp("127.0.0.1:0");
    let address = server.tcp.unwrap();
    let token = |args: &[&str]| {
        let output = program(server.path(), args).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let first = token(&["token"]);
    assert!(is_accepted(address, &first));
    let second = token(&["token", "--rotate"]);
    assert!(!is_accepted(address, &first), "the old one is void");
    assert!(is_accepted(address, &second));
}
