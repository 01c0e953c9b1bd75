//! The service over real sockets, with real commands of this system.

use super::*;
use crate::service::users;
use dvn_protocol::service::{Decoder, Frame, TtySize};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    thread::{self, JoinHandle},
};

/// No command here runs longer, unless something is wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// The host's end of a connection, and the thread that serves it.
struct Host {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    decoder: Decoder,
    agent: JoinHandle<()>,
}

#[derive(Debug, PartialEq)]
enum End {
    Exit(i32),
    Killed(u8),
    Closed,
}

impl Host {
    fn dial() -> Host {
        Host::served_by(serve)
    }

    fn served_by(agent: impl FnOnce(&OwnedFd) + Send + 'static) -> Host {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let agent = thread::spawn(move || agent(&theirs.into()));
        Host { reader: BufReader::new(ours.try_clone().unwrap()), stream: ours, decoder: Decoder::new(), agent }
    }

    fn call(&mut self, call: &Call) -> Answer {
        self.stream.write_all(&line(call).unwrap()).unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let mut answer = String::new();
        self.reader.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// A command that was started.
    fn start(exec: &Exec) -> Host {
        let mut host = Host::dial();
        let answer = host.call(&Call::Exec(exec.clone()));
        assert!(matches!(answer, Ok(Reply::Started { .. })), "{answer:?}");
        host
    }

    fn send(&mut self, frame: Frame<'_>) {
        self.stream.write_all(&frame.to_bytes()).unwrap();
    }

    /// The next piece of output and whether it is of stderr, or the end.
    fn next(&mut self) -> Result<(bool, Vec<u8>), End> {
        loop {
            match self.decoder.next_frame().unwrap() {
                Some(Frame::Stdout(data)) => return Ok((false, data.to_vec())),
                Some(Frame::Stderr(data)) => return Ok((true, data.to_vec())),
                Some(Frame::Exit(code)) => return Err(End::Exit(code)),
                Some(Frame::Killed(signal)) => return Err(End::Killed(signal)),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            let mut bytes = [0; 8192];
            match self.reader.read(&mut bytes) {
                Ok(0) => return Err(End::Closed),
                Ok(n) => self.decoder.push(&bytes[..n]),
                // Closed, with frames of ours unread.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(End::Closed),
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Output until it contains `text`.
    fn read_until(&mut self, text: &str) -> String {
        let mut output = String::new();
        while !output.contains(text) {
            output.push_str(&String::from_utf8(self.next().unwrap().1).unwrap());
        }
        output
    }

    /// Everything until the end: output, error output, and how it ended. The agent closes after it.
    fn finish(mut self) -> (String, String, End) {
        let mut outputs = [Vec::new(), Vec::new()];
        let end = loop {
            match self.next() {
                Ok((of_stderr, data)) => outputs[usize::from(of_stderr)].extend(data),
                Err(end) => break end,
            }
        };
        if end != End::Closed {
            assert_eq!(self.next(), Err(End::Closed));
        }
        self.agent.join().unwrap();
        let [stdout, stderr] = outputs.map(|output| String::from_utf8(output).unwrap());
        (stdout, stderr, end)
    }
}

fn exec(command: &str, args: &[&str]) -> Exec {
    Exec { command: command.into(), args: args.iter().map(|arg| (*arg).into()).collect(), ..Exec::default() }
}

fn shell(script: &str) -> Exec {
    exec("sh", &["-c", script])
}

fn run(exec: &Exec) -> (String, String, End) {
    Host::start(exec).finish()
}

fn refusal(exec: &Exec) -> String {
    Host::dial().call(&Call::Exec(exec.clone())).unwrap_err()
}

/// A path of this test that does not exist.
fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("dvn-exec-{name}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

/// Waits until this process has ended. If its parent has ended before, the system's PID 1 may reap it late or never.
fn await_end(pid: &str) {
    let began = Instant::now();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.chars().next();
    while state().is_some_and(|state| !matches!(state, 'Z' | 'X')) {
        assert!(began.elapsed() < LIMIT, "{pid} lives on");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn output_and_error_output_are_apart_and_the_code_is_that_of_the_command() {
    assert_eq!(run(&exec("true", &[])), (String::new(), String::new(), End::Exit(0)));
    let both = run(&shell("echo out; echo err >&2; exit 7"));
    assert_eq!(both, ("out\n".into(), "err\n".into(), End::Exit(7)));
    assert_eq!(run(&shell("kill -TERM $$")).2, End::Killed(15));
}

/// Both pipes are full when it ends, which is more than the agent reads at once.
#[test]
fn all_that_a_command_has_left_arrives() {
    let running = command::start(&shell("head -c 65536 /dev/zero; head -c 65536 /dev/zero >&2; exit 4")).unwrap();
    let ended = running.end_watch().unwrap();
    poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).unwrap();
    let host = Host::served_by(|client| session::serve_watched(client, running, ended, &[]));
    let (stdout, stderr, end) = host.finish();
    assert_eq!((stdout.len(), stderr.len(), end), (65536, 65536, End::Exit(4)));
}

#[test]
fn a_flood_of_output_does_not_keep_error_output_back() {
    let mut host = Host::start(&shell("yes & sleep 0.2; echo err >&2; wait"));
    let began = Instant::now();
    while let (false, _) = host.next().unwrap() {
        assert!(began.elapsed() < LIMIT, "no error output");
    }
    host.stream.shutdown(Shutdown::Both).unwrap();
    host.agent.join().unwrap();
}

#[test]
fn input_reaches_the_command_and_its_end_too() {
    let mut host = Host::start(&Exec { stdin: true, ..exec("cat", &[]) });
    host.send(Frame::Stdin(b"hello "));
    assert_eq!(host.next(), Ok((false, b"hello ".to_vec())), "before the end of input");
    host.send(Frame::Stdin(b"world"));
    host.send(Frame::Stdin(b""));
    host.send(Frame::Stdin(b"after the end"));
    assert_eq!(host.finish(), ("world".into(), String::new(), End::Exit(0)));
    assert_eq!(run(&exec("cat", &[])).2, End::Exit(0), "without input it ends at once");
}

#[test]
fn megabytes_pass_both_ways_at_once() {
    let mut host = Host::start(&Exec { stdin: true, ..exec("cat", &[]) });
    let mut stream = host.stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let data: Vec<u8> = (0..3_000_000u32).map(|n| b'a' + (n % 23) as u8).collect();
        stream.write_all(&Frame::Stdin(&data).to_bytes()).unwrap();
        stream.write_all(&Frame::Stdin(b"").to_bytes()).unwrap();
        data
    });
    let mut received = Vec::new();
    let end = loop {
        match host.next() {
            Ok((_, data)) => received.extend(data),
            Err(end) => break end,
        }
    };
    assert_eq!(end, End::Exit(0));
    assert!(received == sender.join().unwrap(), "{} bytes", received.len());
}

#[test]
fn a_command_that_closes_its_input_stops_nothing() {
    let script = "exec <&-; trap 'exit 5' TERM; echo closed; while :; do sleep 0.05; done";
    let mut host = Host::start(&Exec { stdin: true, ..shell(script) });
    host.read_until("closed");
    for _ in 0..8 {
        host.send(Frame::Stdin(&[b'x'; 100_000]));
    }
    host.send(Frame::Signal(15));
    assert_eq!(host.finish().2, End::Exit(5));
}

#[test]
fn environment_directory_and_group_are_those_of_the_request() {
    let mut command = exec("env", &[]);
    command.env = [("A".into(), "b c".into()), ("HOME".into(), "/nowhere".into())].into();
    let (stdout, ..) = run(&command);
    let names: BTreeSet<&str> = stdout.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert_eq!(names, ["A", "HOME", "LOGNAME", "PATH", "SHELL", "USER"].into());
    assert!(stdout.contains("A=b c\n") && stdout.contains("HOME=/nowhere\n"), "{stdout}");
    let (stdout, ..) = run(&Exec { workdir: Some("/usr".into()), ..exec("pwd", &[]) });
    assert_eq!(stdout, "/usr\n");
    let (stdout, ..) = run(&shell("cut -d' ' -f1,5,6 /proc/$$/stat"));
    let numbers: Vec<&str> = stdout.split_whitespace().collect();
    assert!(numbers.len() == 3 && numbers.iter().all(|number| *number == numbers[0]), "{stdout}");
    let (stdout, ..) = run(&shell("pwd"));
    assert!([users::own().home.as_str(), "/"].contains(&stdout.trim()), "{stdout}");
}

#[test]
fn a_terminal_has_its_size_and_takes_another() {
    let mut command = shell("stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done");
    command.tty = Some(TtySize { rows: 33, cols: 120 });
    let mut host = Host::start(&command);
    assert!(host.read_until("ready").starts_with("33 120\r\n"));
    host.send(Frame::Resize(TtySize { rows: 40, cols: 100 }));
    let (stdout, stderr, end) = host.finish();
    assert!(stdout.contains("40 100"), "{stdout:?}");
    assert_eq!((stderr.as_str(), end), ("", End::Exit(3)));
}

#[test]
fn a_terminal_is_the_controlling_one_and_gets_what_is_typed() {
    let mut command = shell("tty; echo $TERM >/dev/tty; [ -t 2 ] && echo err >&2; cat");
    command.tty = Some(TtySize { rows: 24, cols: 80 });
    command.stdin = true;
    let mut host = Host::start(&command);
    let output = host.read_until("err\r\n");
    assert!(output.starts_with("/dev/pts/") && output.contains("\r\nxterm\r\n"), "{output:?}");
    host.send(Frame::Stdin(b"typed\n"));
    assert!(host.read_until("typed\r\ntyped\r\n").contains("typed"), "its echo, and then cat's");
    host.send(Frame::Stdin(b""));
    let (_, _, end) = host.finish();
    assert_eq!(end, End::Exit(0), "control-D ends cat");
    let mut host = Host::start(&Exec { stdin: true, tty: command.tty, ..shell("echo ready; exec sleep 300") });
    host.read_until("ready");
    host.send(Frame::Stdin(b"\x03"));
    assert_eq!(host.finish().2, End::Killed(2), "control-C");
}

#[test]
fn a_signal_reaches_the_whole_process_group() {
    let mut host = Host::start(&shell("trap 'wait; exit 9' TERM; sh -c 'echo $$; exec sleep 300' & wait"));
    let sleeper = host.read_until("\n");
    host.send(Frame::Signal(0));
    host.send(Frame::Signal(200));
    host.send(Frame::Signal(15));
    assert_eq!(host.finish().2, End::Exit(9));
    await_end(sleeper.trim());
}

#[test]
fn a_client_that_goes_ends_the_command() {
    for half in [false, true] {
        let mut host = Host::start(&Exec { stdin: true, ..shell("sleep 300 & echo $$ $!; wait") });
        let pids = host.read_until("\n");
        // Unread input does not hide the end.
        host.send(Frame::Stdin(&[b'x'; 100_000]));
        if half {
            host.stream.shutdown(Shutdown::Write).unwrap();
        } else {
            (host.stream, host.reader) = {
                let (other, _) = UnixStream::pair().unwrap();
                (other.try_clone().unwrap(), BufReader::new(other))
            };
        }
        host.agent.join().unwrap();
        pids.split_whitespace().for_each(await_end);
    }
}

#[test]
fn a_command_that_ignores_the_hang_up_is_killed() {
    let mut host = Host::start(&shell("trap '' HUP; sleep 300 & echo $$ $!; wait"));
    let pids = host.read_until("\n");
    let began = Instant::now();
    host.stream.shutdown(Shutdown::Both).unwrap();
    host.agent.join().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    pids.split_whitespace().for_each(await_end);
}

#[test]
fn a_command_ends_although_it_leaves_a_process_with_its_output_behind() {
    let mut command = shell("(while echo more; do :; done) & echo $!");
    for tty in [None, Some(TtySize { rows: 24, cols: 80 })] {
        command.tty = tty;
        let (stdout, _, end) = run(&command);
        assert_eq!(end, End::Exit(0));
        // Its output is closed now.
        let pid = stdout.lines().find(|line| line.trim().parse::<u32>().is_ok()).unwrap();
        await_end(pid.trim());
    }
}

#[test]
fn a_detached_command_runs_on_in_its_own_session() {
    let marks = path("detached");
    let mut host = Host::dial();
    let script = format!("sleep 0.2; cut -d' ' -f1,6 /proc/$$/stat >{0}.new; mv {0}.new {0}", marks.display());
    let answer = host.call(&Call::Exec(Exec { detach: true, ..shell(&script) }));
    let Ok(Reply::Started { pid }) = answer else { panic!("{answer:?}") };
    assert_eq!(host.finish().2, End::Closed, "no frames");
    await_end(&pid.to_string());
    assert_eq!(fs::read_to_string(&marks).unwrap(), format!("{pid} {pid}\n"));
    fs::remove_file(&marks).unwrap();
}

#[test]
fn what_cannot_be_started_is_an_error_that_says_why() {
    let in_directory = |directory: &str| Exec { workdir: Some(directory.into()), ..exec("true", &[]) };
    let with_name = |name: &str| Exec { env: [(name.into(), String::new())].into(), ..exec("true", &[]) };
    for (command, expected) in [
        (exec("no-such-program", &[]), "there is no program \"no-such-program\" in the guest's PATH"),
        (exec("/no/such/program", &[]), "there is no program \"/no/such/program\""),
        (exec("/etc/passwd", &[]), "\"/etc/passwd\" cannot be started: Permission denied"),
        (exec("", &[]), "there is no command"),
        (exec("true", &["a\0b"]), "cannot be started"),
        (in_directory("/no/such"), "the working directory \"/no/such\" cannot be entered: No such file"),
        (in_directory("relative"), "is not absolute"),
        (in_directory("/a\0b"), "is not a path"),
        (with_name("A=B"), "\"A=B\" is not a valid name"),
        (Exec { user: Some("no-such-user".into()), ..exec("true", &[]) }, "there is no user \"no-such-user\""),
        (Exec { detach: true, stdin: true, ..exec("true", &[]) }, "neither a terminal nor input"),
    ] {
        let why = refusal(&command);
        assert!(why.contains(expected), "{why}");
    }
}

/// Only root can become another user; the result is right in both cases.
#[test]
fn the_command_runs_as_the_user_of_the_request() {
    let command = Exec { user: Some("nobody".into()), ..shell("id -un; id -Gn; echo >/dev/stderr; echo $HOME") };
    if rustix::process::geteuid().is_root() {
        let nobody = users::find("nobody").unwrap();
        let (stdout, stderr, end) = run(&command);
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!((lines[0], lines[2], stderr.as_str()), ("nobody", nobody.home.as_str(), "\n"));
        assert_eq!((lines[1].split(' ').count(), end), (nobody.groups.len(), End::Exit(0)));
        let (by_number, ..) = run(&Exec { user: Some(nobody.uid.to_string()), ..exec("id", &["-un"]) });
        assert_eq!(by_number, "nobody\n");
        let on_terminal = Exec { tty: Some(TtySize { rows: 9, cols: 9 }), ..command };
        assert_eq!(run(&on_terminal).2, End::Exit(0), "it can open its terminal again");
    } else {
        let why = refusal(&command);
        assert!(why.contains("as user \"nobody\""), "{why}");
    }
}

#[test]
fn eight_run_at_once_beside_clients_that_hang() {
    let mut silent = Host::dial();
    let mut deaf = Host::start(&shell("while :; do echo never read; done"));
    let (mut hosts, mut expected) = (Vec::new(), Vec::new());
    for n in 0..8 {
        hosts.push(Host::start(&Exec { stdin: true, ..shell(&format!("read x; echo {n}$x; exit {n}")) }));
        expected.push((format!("{n}go\n"), String::new(), End::Exit(n)));
    }
    for host in &mut hosts {
        host.send(Frame::Stdin(b"go\n"));
    }
    let ended: Vec<_> = hosts.into_iter().map(Host::finish).collect();
    assert_eq!(ended, expected);
    assert!(silent.call(&Call::Addresses).is_ok());
    assert!(deaf.next().is_ok());
    deaf.stream.shutdown(Shutdown::Both).unwrap();
    deaf.agent.join().unwrap();
}

#[test]
fn frames_may_come_with_the_request_and_wrong_ones_end_the_command() {
    let mut host = Host::dial();
    let mut bytes = line(&Call::Exec(Exec { stdin: true, ..exec("cat", &[]) })).unwrap();
    Frame::Stdin(b"early").encode(&mut bytes);
    Frame::Stdin(b"").encode(&mut bytes);
    host.stream.write_all(&bytes).unwrap();
    assert!(host.answer().is_ok());
    assert_eq!(host.finish(), ("early".into(), String::new(), End::Exit(0)));
    for wrong in [&Frame::Exit(0).to_bytes()[..], &[0xff; 9]] {
        let mut host = Host::start(&exec("sleep", &["300"]));
        host.stream.write_all(wrong).unwrap();
        assert_eq!(host.finish().2, End::Closed);
    }
}

#[test]
fn the_other_requests_are_answered() {
    let hello = Host::dial().call(&Call::Hello).unwrap();
    let Reply::Hello(hello) = hello else { panic!("{hello:?}") };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!((hello.version, hello.kernel.as_str()), (dvn_protocol::VERSION, kernel.trim()));
    assert!(!hello.os.is_empty() && hello.agent == env!("CARGO_PKG_VERSION"));
    assert!(matches!(Host::dial().call(&Call::Addresses), Ok(Reply::Addresses { .. })));
}

#[test]
fn what_is_no_request_is_refused_or_closed() {
    let mut host = Host::dial();
    host.stream.write_all(b"{\"call\":\"dance\"}\n").unwrap();
    assert!(host.answer().unwrap_err().contains("dance"));
    let mut host = Host::dial();
    // The agent may close before all of it is sent.
    let _ = host.stream.write_all(&vec![b'x'; MAX_LINE + 1]);
    let _ = host.stream.shutdown(Shutdown::Write);
    host.agent.join().unwrap();
    let host = Host::dial();
    host.stream.shutdown(Shutdown::Both).unwrap();
    host.agent.join().unwrap();
}
