//! `exec`, against an agent that knows a few commands.

use super::{
    common::{Server, vm},
    plain, program, run, send,
};
use insta::assert_snapshot;
use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

fn server() -> Server {
    let server = Server::new();
    server.fake.library.lock().unwrap().push(vm("My VM"));
    server
}

#[test]
fn output_and_exit_code_are_the_commands() {
    let server = server();
    assert_snapshot!(run(server.path(), &["exec", "-u", "admin", "-w", "/srv", "-e", "A=b", "My VM", "show", "-l", "a b"]), @r#"
    exit 0
    --- stdout
    {"command":"show","args":["-l","a b"],"env":{"A":"b"},"workdir":"/srv","user":"admin","stdin":false,"detach":false}
    --- stderr
    shown
    "#);
    for (command, code) in [
        (&["exit", "0"][..], 0),
        (&["exit", "7"], 7),
        (&["exit", "255"], 255),
        (&["kill", "9"], 137),
        (&["--", "exit", "3"], 3),
    ] {
        assert_eq!(
            run(server.path(), &[&["exec", "My VM"], command].concat()),
            format!("exit {code}\n"),
            "{command:?}"
        );
    }
    assert_eq!(run(server.path(), &["exec", "-d", "My VM", "show"]), "exit 0\n--- stdout\n77\n");
    assert!(server.calls().iter().all(|call| call == "agent My VM"));
}

#[test]
fn what_goes_wrong_is_an_error_of_ours() {
    let server = server();
    assert_snapshot!(run(server.path(), &["exec", "My VM", "missing"]), @r"
    exit 10
    --- stderr
    error: there is no program missing in the guest
    ");
    assert_snapshot!(run(server.path(), &["exec", "My VM", "vanish"]), @r"
    exit 10
    --- stderr
    error: the connection to the agent in the guest failed: it ended before the command did
      hint: see whether the machine runs: `darwin-vz-nix list`
    ");
    assert_eq!(run(server.path(), &["exec", "none", "true"]), "exit 11\n--- stderr\nerror: there is no machine none\n");
    let long = "x".repeat(70_000);
    let text = run(server.path(), &["exec", "My VM", "true", &long]);
    assert!(
        text.starts_with("exit 3\n--- stderr\nerror: the command cannot be sent: ") && text.contains("65536"),
        "{text}"
    );
    assert!(run(server.path(), &["exec", "My VM"]).starts_with("exit 2\n"));
    assert!(run(server.path(), &["exec", "-dt", "My VM", "true"]).starts_with("exit 2\n"));
}

#[test]
fn stdin_is_forwarded_to_its_end_and_only_if_asked_for() {
    let server = server();
    let sent: Vec<u8> = (0..1_000_000).map(|n| (n % 251) as u8).collect();
    let mut command = program(server.path(), &["exec", "-i", "My VM", "cat"]);
    let output = command.write_stdin(sent.clone()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.strip_prefix(b"ready\n") == Some(&sent[..]), "every byte, in order");
    let shown = program(server.path(), &["exec", "My VM", "show"]).write_stdin("unread").output().unwrap();
    assert!(String::from_utf8(shown.stdout).unwrap().contains("\"stdin\":false"));
}

#[test]
fn a_reader_that_stops_early_ends_it_quietly() {
    let server = server();
    let mut child =
        plain(server.path(), &["exec", "My VM", "yes"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    drop(lines);
    let output = child.wait_with_output().unwrap();
    assert_eq!((line.as_str(), output.status.code(), output.stderr.as_slice()), ("y\n", Some(141), &b""[..]));
}

/// The command once it runs: it has printed `ready`.
fn ready(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "ready");
    (child, stdout)
}

#[test]
fn signals_are_the_commands() {
    let server = server();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("QUIT", 131)] {
        let (mut child, _stdout) = ready(plain(server.path(), &["exec", "My VM", "await-signal"]));
        send(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
    }
    // A command that ignores them is left.
    let (mut child, _stdout) = ready(plain(server.path(), &["exec", "My VM", "deaf"]));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        send(child.id(), "TERM");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(143));
}

/// A command line on its own terminal, whose settings before and after it are printed, too.
#[cfg(target_os = "linux")]
fn on_a_terminal(dir: &std::path::Path, line: &str) -> Command {
    let prepared = plain(dir, &[]);
    let script = format!(
        "stty -a | grep -o -- '-*icanon'; '{}' {line}; echo code $?; stty -a | grep -o -- '-*icanon'",
        env!("CARGO_BIN_EXE_darwin-vz-nix")
    );
    let mut command = Command::new("script");
    command.args(["-qec", &script, "/dev/null"]).env_clear().current_dir(dir);
    command.envs(prepared.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
    command
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_is_raw_while_the_command_runs_and_as_before_after_it() {
    let server = server();
    let mut command = on_a_terminal(server.path(), "exec -it 'My VM' cat");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(next(), "icanon");
    assert_eq!(next(), "ready");
    // Without a newline, and with Ctrl-C and Ctrl-D: only a raw terminal passes these on, and `cat` sends them back.
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"\x03\x04key\n").unwrap();
    assert_eq!(next(), "\x03\x04key");
    send(pid_of(server.path(), "cat"), "HUP");
    assert_eq!((next(), next()), ("code 129".to_owned(), "icanon".to_owned()));
    drop(stdin);
    child.wait().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminals_kind_and_size_go_to_the_guest_also_when_it_is_resized() {
    let server = server();
    let shown = |line: &str| {
        let output = on_a_terminal(server.path(), line).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown("exec -t 'My VM' show");
    assert!(text.contains("\"env\":{\"TERM\":\"xterm\"}") && text.contains("\"tty\":{\"rows\":"), "{text}");
    let (mut child, mut stdout) = ready(plain(server.path(), &["exec", "-t", "My VM", "size"]));
    send(child.id(), "WINCH");
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "24x80\n", "what is assumed without a terminal");
    assert!(child.wait().unwrap().success());
}

/// The program that runs that command in a guest, of this state directory.
#[cfg(target_os = "linux")]
fn pid_of(dir: &std::path::Path, command: &str) -> u32 {
    let ours = |pid: &u32| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let words: Vec<Vec<u8>> = read("cmdline").split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let here = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
        here && words.first().is_some_and(|program| program.ends_with(b"darwin-vz-nix"))
            && words.contains(&command.as_bytes().to_vec())
    };
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.into_iter().find(ours).unwrap()
}
