//! `run`, against a fake daemon.

use super::{
    common::{Server, vm},
    plain, run, send, wait,
};
use dvn_types::{Kind, Report, wire::State};
use insta::assert_snapshot;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Stdio},
};

fn server(name: &str) -> Server {
    let server = Server::new();
    server.fake.library.lock().unwrap().push(vm(name));
    server
}

fn moved(server: &Server, name: &str, state: State) {
    server.fake.vm_moved(&name.parse().unwrap(), state).unwrap();
}

fn stopped(exit: &str) -> State {
    State::Stopped { last_exit: Some(exit.to_owned()) }
}

/// The program once the machine runs and its first line is printed.
fn attached(server: &Server, name: &str) -> Child {
    fs::write(server.path().join(format!("console of {name}.log")), "booting\n").unwrap();
    let mut child = plain(server.path(), &["run", name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // One byte at a time, so that the rest stays for later.
    let mut stdout = BufReader::with_capacity(1, child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "booting\n");
    child.stdout = Some(stdout.into_inner());
    child
}

/// Exit code, and what it printed after the first line.
fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_prints_the_console_until_the_guest_ends_and_its_last_line_too() {
    for (end, code, last) in [
        (stopped("powered-off"), 0, "My VM has powered itself off\n"),
        (stopped("killed"), 0, "My VM was forced off\n"),
        (State::Suspended, 0, "My VM is suspended; the next start continues it\n"),
        (stopped("crashed: QEMU died"), 10, "error: My VM crashed: QEMU died\n"),
    ] {
        let server = server("My VM");
        let child = attached(&server, "My VM");
        let mut console = fs::File::options().append(true).open(server.path().join("console of My VM.log")).unwrap();
        console.write_all(b"the last words").unwrap();
        moved(&server, "My VM", end);
        let (found, stdout, stderr) = ended(child);
        assert_eq!((found, stdout.as_str()), (Some(code), "the last words"), "{stderr}");
        assert!(stderr.starts_with(last), "{stderr}");
    }
}

#[test]
fn the_first_interrupt_stops_it_and_the_second_forces_it_off() {
    let polite = server("polite");
    let child = attached(&polite, "polite");
    send(child.id(), "INT");
    let (code, _, stderr) = ended(child);
    assert_eq!(code, Some(0));
    assert_eq!(stderr, "polite: stopping; a second interrupt forces it off\npolite has powered itself off\n");
    assert_eq!(polite.calls().last().unwrap(), "stop polite force=false");

    let stubborn = server("stubborn");
    let child = attached(&stubborn, "stubborn");
    send(child.id(), "TERM");
    wait("the first stop", || stubborn.calls().iter().any(|call| call == "stop stubborn force=false"));
    send(child.id(), "INT");
    let (code, _, stderr) = ended(child);
    assert_eq!(code, Some(0));
    assert!(stderr.ends_with("stubborn: forcing it off\nstubborn was forced off\n"), "{stderr}");
    assert_eq!(stubborn.calls().last().unwrap(), "stop stubborn force=true");
}

#[test]
fn devices_are_sent_with_absolute_paths() {
    let server = server("web");
    let args = [
        &["run", "web", "--detach", "--no-graphics", "--disk", "data.img:ro", "--disk", "/a:b.img"][..],
        &["--dir", "src:./src:ro", "--dir", "~/all", "--expose", "8080:80"],
    ];
    assert_eq!(run(server.path(), &args.concat()), "exit 0\n--- stdout\nweb runs\n");
    let dir = server.path().display();
    assert_eq!(
        server.calls(),
        [format!(
            "run web RunRequest {{ no_graphics: true, disks: [ExtraDisk {{ path: \"{dir}/data.img\", read_only: true }}, \
             ExtraDisk {{ path: \"/a:b.img\", read_only: false }}], shares: [SharedDirectory {{ tag: \"src\", path: \"{dir}/src\", \
             read_only: true }}, SharedDirectory {{ tag: \"com.apple.virtio-fs.automount\", path: \"{dir}/all\", read_only: false }}], \
             expose: [Exposed {{ host: 8080, guest: 80 }}] }}"
        )]
    );
    assert_snapshot!(run(server.path(), &["run", "web", "--dir", "/a", "--dir", "/b"]), @r"
    exit 3
    --- stderr
    error: two directories have the tag com.apple.virtio-fs.automount
      hint: give each a name of its own: --dir NAME:PATH
    ");
    assert_snapshot!(run(server.path(), &["run", "web", "--expose", "80"]), @r"
    exit 2
    --- stderr
    error: invalid value '80' for '--expose <HOST:GUEST>': give two numbers from 1 to 65535, such as 8080:80

    For more information, try '--help'.
    ");
}

#[test]
fn a_machine_that_runs_or_cannot_is_refused() {
    let server = server("My VM");
    moved(&server, "My VM", State::Running { leases: 0, idle_stop_in_ms: None, builds: 0 });
    assert_snapshot!(run(server.path(), &["run", "My VM"]), @r"
    exit 8
    --- stderr
    error: My VM runs already
      hint: follow its console: `darwin-vz-nix logs --console --follow 'My VM'`
      hint: or stop it: `darwin-vz-nix stop 'My VM'`
    ");
    assert_eq!(run(server.path(), &["run", "none"]), "exit 11\n--- stderr\nerror: there is no machine none\n");
    assert_snapshot!(run(server.path(), &["run", "builder"]), @r"
    exit 3
    --- stderr
    error: builder is a builder, which the configuration declares
      hint: start it: `darwin-vz-nix start builder`
    ");
    moved(&server, "My VM", stopped("powered-off"));
    *server.fake.fault.lock().unwrap() = Some(Report::new(Kind::Boot, "there is no firmware"));
    assert_eq!(run(server.path(), &["run", "My VM"]), "exit 7\n--- stderr\nerror: there is no firmware\n");
    assert_eq!(server.calls().len(), 1, "what is refused is not asked for");
}

#[test]
fn detached_it_waits_for_what_is_asked_for() {
    for what in ["agent", "ip", "port:80"] {
        let server = server("web");
        let text = run(server.path(), &["run", "web", "--detach", "--wait-for", what]);
        assert_eq!(text, "exit 0\n--- stdout\nweb runs\n", "{what}");
    }
    let server = server("web");
    let text = run(server.path(), &["run", "web", "--detach", "--wait-for", "port:81", "--timeout", "1"]);
    assert!(
        text.starts_with(
            "exit 10\n--- stderr\nerror: web runs, but a program that listens on port 81 did not appear within 1 s\n"
        ),
        "{text}"
    );
    assert!(run(server.path(), &["run", "web", "--wait-for", "ip"]).starts_with("exit 2\n"), "only with --detach");
    assert!(run(server.path(), &["run", "web", "--detach", "--wait-for", "ssh"]).starts_with("exit 2\n"));
}

#[test]
fn without_a_name_it_says_where_the_daemon_is() {
    let dir = crate::common::private_dir();
    assert_snapshot!(run(dir.path(), &["run"]), @r"
    exit 2
    --- stderr
    error: the following required arguments were not provided:
      <NAME>

      tip: the daemon in the foreground is 'darwin-vz-nix daemon'

    Usage: darwin-vz-nix run <NAME>

    For more information, try '--help'.
    ");
    let text = run(dir.path(), &["run", "--cores", "4"]);
    assert!(text.starts_with("exit 2\n") && text.contains("tip: the daemon in the foreground is"), "{text}");
}
