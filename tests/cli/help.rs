//! Help, completions, the reference, and wrong command lines.

use super::run;
use insta::assert_snapshot;
use std::collections::BTreeMap;

/// The short help of a verb, without what all have.
pub fn help(verb: &str) -> String {
    let dir = crate::common::private_dir();
    let text = run(dir.path(), &[verb, "-h"]);
    // The same for every verb, and shown once.
    text.split("\n\nGlobal options:").next().unwrap().to_owned()
}

#[test]
fn the_program() {
    let dir = crate::common::private_dir();
    assert_snapshot!(run(dir.path(), &["--help"]), @r"
    exit 0
    --- stdout
    Linux builders for Nix, and virtual machines, on one computer

    Usage: darwin-vz-nix [OPTIONS] <COMMAND>

    Virtual machines:
      create, clone          Make a machine with an empty disk, or a copy of another one
      list, get, set         Show the machines; change cores, memory, disk or display of one
      rename, delete         Rename a machine; delete machines with their disks
      run, suspend           Boot a machine and show its console; save its memory and end its guest
      exec, ip, screenshot   Run a command in a machine; show its addresses or its screen
      tart                   Take Tart's command line for these machines
    Virtual machines and builders for Nix:
      start, stop            Start or stop a machine; the daemon starts with it
      pause, resume          Pause the guest; resume it
      status, logs           Show what runs; show the daemon's log, a console or a build's log
    Builders for Nix:
      ssh, connect           Open a shell or run a command; connect to a service, for Nix and ssh
      nix-config             Print the configuration that a host needs to build on the machine
      generations, destroy   Show the guest systems built from a recipe; delete disk and keys
    This program:
      daemon                 Run the daemon in the foreground
      doctor, capabilities   Diagnose problems; show what is supported here, with reasons
      config, token          Show the effective settings; print the token of the HTTP API
      completions            Print a completion script for a shell

    Options of every command:
          --state-dir <DIR>    State directory; also selects the daemon
          --config <FILE>      Configuration file
          --machine <NAME>     Machine [default: builder, or the only one]
          --log-level <LEVEL>  Log level: error, warn, info, debug or trace
          --color <WHEN>       When to use colours [possible values: auto, always, never]
      -v, --verbose...         Log at level debug; -vv logs at level trace
      -h, --help               Print help
      -V, --version            Print version

    Examples:
      darwin-vz-nix create web --from-iso installer.iso && darwin-vz-nix run web
      darwin-vz-nix start && darwin-vz-nix nix-config    # the builder, and how Nix uses it

    Exit codes: 0 success; 2 wrong command line; 3 wrong setting; 4 no daemon answers; 5 the host
    lacks a requirement; 6 guest bundle; 7 the guest did not boot; 8 in use by another process;
    9 state directory; 10 connection to the guest; 11 no such machine or generation; 70 internal error.
    The manual page is darwin-vz-nix(1).
    ");
}

#[test]
fn every_verb() {
    assert_snapshot!(help("start"), @r"
    exit 0
    --- stdout
    Start a machine, and the daemon if none runs

    Usage: darwin-vz-nix start [OPTIONS] [NAME]

    Arguments:
      [NAME]  Machine, of the library or not [default: that of --machine]

    Options:
          --cores <N>         Processors of the guest, for this boot
          --memory <SIZE>     Memory of the guest, for this boot, such as 8G
          --disk-size <SIZE>  Size of the data disk, such as 100G; a disk can grow, not shrink
          --json              Print the machine's status as JSON
      -h, --help              Print help (see more with '--help')
    ");
    assert_snapshot!(help("stop"), @r"
    exit 0
    --- stdout
    Stop a machine; a builder is started again by the next connection

    Usage: darwin-vz-nix stop [OPTIONS] [NAME]

    Arguments:
      [NAME]  Machine, of the library or not [default: that of --machine]

    Options:
          --force   Force the guest off instead of pressing the power button
          --daemon  Stop every machine and end the daemon
          --json    Print the machine's status as JSON
      -h, --help    Print help (see more with '--help')
    ");
    assert_snapshot!(help("status"), @r"
    exit 0
    --- stdout
    Show the builders, and the other machines that run or are suspended

    Usage: darwin-vz-nix status [OPTIONS]

    Options:
          --json         Print everything as JSON; with --watch one line for each change
          --watch        Show the status again on each change, until interrupted
          --connections  Show the connections to the machines instead
      -h, --help         Print help
    ");
    assert_snapshot!(help("ssh"), @r"
    exit 0
    --- stdout
    Open a shell in the guest or run a command there; starts it if needed

    Usage: darwin-vz-nix ssh [OPTIONS] [-- <COMMAND>...]

    Arguments:
      [COMMAND]...  A command to run in the guest, instead of a shell

    Options:
      -h, --help  Print help
    ");
    assert_snapshot!(help("connect"), @r"
    exit 0
    --- stdout
    Connect stdin and stdout to a service of the guest; called by Nix and ssh

    Usage: darwin-vz-nix connect [OPTIONS]

    Options:
          --service <SERVICE>  Service of the guest [default: nix] [possible values: nix, ssh]
      -h, --help               Print help (see more with '--help')
    ");
    assert_snapshot!(help("daemon"), @r"
    exit 0
    --- stdout
    Run the daemon in the foreground

    Usage: darwin-vz-nix daemon [OPTIONS]

    Options:
          --api-listen <ADDRESS>  Loopback address and port on which the HTTP API listens, too
      -h, --help                  Print help (see more with '--help')

    Settings of the machine:
          --cores <N>             Processors of the guest
          --memory <SIZE>         Memory of the guest, such as 8G
          --disk-size <SIZE>      Size of the data disk, such as 100G
          --ephemeral[=<BOOL>]    Start each boot with an empty data disk
          --idle-timeout <TIME>   Idle minutes until the guest is stopped; 0 means never
          --listen <ADDRESS>      Loopback address and port for ssh clients
          --bundle <DIR>          Directory of the guest bundle
          --recipe <DRV>          Derivation in the host's store whose output is the guest bundle to
                                  build and switch to
          --nix <DIR>             Directory with the host's nix, for the recipe
          --rosetta[=<BOOL>]      Let an aarch64 guest run x86_64 programs through Rosetta
          --share-store[=<BOOL>]  Let the guest build on the host's store
          --store-dir <DIR>       Directory of the host's store
          --store-daemon <FILE>   Socket of the host's Nix daemon
          --backend <NAME>        Backend that runs the guest: auto, vz (macOS) or qemu (Linux)
          --accelerator <NAME>    QEMU's accelerator: auto, kvm or tcg
          --boot-timeout <TIME>   Seconds that a boot may take
          --stop-grace <TIME>     Seconds that a guest may take to power off before it is killed
          --hang-timeout <TIME>   Seconds until a guest in use that hangs is killed; 0 means never
    ");
    assert_snapshot!(help("logs"), @r"
    exit 0
    --- stdout
    Show the daemon's log, a guest's console or a build's log

    Usage: darwin-vz-nix logs [OPTIONS] [NAME]

    Arguments:
      [NAME]  Machine, of the library or not, whose console to show [default: that of --machine]

    Options:
          --console    Show the guest's serial console instead of the daemon's log
          --boot <N>   Show a boot's console: 0 is the last, -1 the one before, or a number of --boots
          --boots      List the last boots with their outcome and its reason
          --build      Show the log of the recipe's last build
      -f, --follow     Continue to print new output
      -n, --lines <N>  Print only the last N lines [default: all; with --follow 10]
      -h, --help       Print help
    ");
    assert_snapshot!(help("destroy"), @r"
    exit 0
    --- stdout
    Stop the machine and delete its disk, keys and generations

    Usage: darwin-vz-nix destroy [OPTIONS]

    Options:
      -y, --yes               Do not ask for confirmation
          --keep-keys         Keep the keys, so that the configuration of hosts stays valid
          --keep-generations  Keep the guest systems built from the recipe
      -h, --help              Print help
    ");
    assert_snapshot!(help("generations"), @r"
    exit 0
    --- stdout
    Show the guest systems built from the recipe; roll back, build, delete

    Usage: darwin-vz-nix generations [OPTIONS] [COMMAND]

    Commands:
      rollback  Roll back to a generation that worked, until the recipe changes
      build     Build the recipe and try it, even if that has failed before
      delete    Delete generations that are not in use

    Options:
          --json  Print everything as JSON
      -h, --help  Print help
    ");
    assert_snapshot!(help("nix-config"), @r"
    exit 0
    --- stdout
    Print the configuration that a host needs to build on the machine

    Usage: darwin-vz-nix nix-config [OPTIONS]

    Options:
          --door <DOOR>     How Nix reaches the guest: direct connects to its nix-daemon, ssh goes
                            through its sshd [default: direct] [possible values: direct, ssh]
          --only <SECTION>  Print only one section, without comments, for scripts [possible values:
                            builders, ssh, known-hosts]
          --json            Print every section as JSON
      -h, --help            Print help (see more with '--help')
    ");
    assert_snapshot!(help("config"), @r"
    exit 0
    --- stdout
    Show the effective settings, and where each comes from

    Usage: darwin-vz-nix config [OPTIONS]

    Options:
          --json    Print it as JSON
          --daemon  Show the running daemon's settings, which may be older
      -h, --help    Print help (see more with '--help')

    Settings of the machine:
          --cores <N>             Processors of the guest
          --memory <SIZE>         Memory of the guest, such as 8G
          --disk-size <SIZE>      Size of the data disk, such as 100G
          --ephemeral[=<BOOL>]    Start each boot with an empty data disk
          --idle-timeout <TIME>   Idle minutes until the guest is stopped; 0 means never
          --listen <ADDRESS>      Loopback address and port for ssh clients
          --bundle <DIR>          Directory of the guest bundle
          --recipe <DRV>          Derivation in the host's store whose output is the guest bundle to
                                  build and switch to
          --nix <DIR>             Directory with the host's nix, for the recipe
          --rosetta[=<BOOL>]      Let an aarch64 guest run x86_64 programs through Rosetta
          --share-store[=<BOOL>]  Let the guest build on the host's store
          --store-dir <DIR>       Directory of the host's store
          --store-daemon <FILE>   Socket of the host's Nix daemon
          --backend <NAME>        Backend that runs the guest: auto, vz (macOS) or qemu (Linux)
          --accelerator <NAME>    QEMU's accelerator: auto, kvm or tcg
          --boot-timeout <TIME>   Seconds that a boot may take
          --stop-grace <TIME>     Seconds that a guest may take to power off before it is killed
          --hang-timeout <TIME>   Seconds until a guest in use that hangs is killed; 0 means never
    ");
    assert_snapshot!(help("token"), @r"
    exit 0
    --- stdout
    Print the token that the HTTP API requires on TCP, or create a new one

    Usage: darwin-vz-nix token [OPTIONS]

    Options:
          --rotate  Create a new token; the old one becomes invalid at once, also for a running daemon
          --path    Print the path of the token's file, and create nothing
          --json    Print it as JSON, with its file and the API's address
      -h, --help    Print help
    ");
    assert_snapshot!(help("capabilities"), @r"
    exit 0
    --- stdout
    Show what this computer and this program support, with reasons

    Usage: darwin-vz-nix capabilities [OPTIONS]

    Options:
          --json  Print them as JSON
      -h, --help  Print help
    ");
    assert_snapshot!(help("completions"), @r"
    exit 0
    --- stdout
    Print a completion script for a shell

    Usage: darwin-vz-nix completions [OPTIONS] <SHELL>

    Arguments:
      <SHELL>  The shell [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help  Print help
    ");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let dir = crate::common::private_dir();
    assert_snapshot!(run(dir.path(), &["sttus"]), @r"
    exit 2
    --- stderr
    error: unrecognized subcommand 'sttus'

      tip: a similar subcommand exists: 'status'

    Usage: darwin-vz-nix [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    assert_snapshot!(run(dir.path(), &["stop", "--force", "--daemon"]), @r"
    exit 2
    --- stderr
    error: the argument '--force' cannot be used with '--daemon'

    Usage: darwin-vz-nix stop --force [NAME]

    For more information, try '--help'.
    ");
    assert_snapshot!(run(dir.path(), &["--machine", "A/B", "status"]), @r#"
    exit 2
    --- stderr
    error: invalid value 'A/B' for '--machine <NAME>': "A/B" is not a machine name: a name has no slash, which is for images in a registry

    For more information, try '--help'.
    "#);
}

#[test]
fn every_verbs_help_fits_a_screen_and_ends_in_examples() {
    let dir = crate::common::private_dir();
    let verbs = super::verbs(dir.path());
    assert!(verbs.len() > 15, "{verbs:?}");
    for verb in &verbs {
        let text = run(dir.path(), &[verb, "-h"]);
        // A verb that takes settings lists all of them.
        let lines = if ["daemon", "config"].contains(&verb.as_str()) { 50 } else { 30 };
        assert!(text.lines().count() <= lines, "{verb} has {} lines", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{verb}: {text}");
        let (_, examples) = text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{verb} has no examples"));
        assert!(examples.contains(&format!("darwin-vz-nix {verb}")) || verb == "connect", "{verb}: {examples}");
    }
    let text = run(dir.path(), &["--help"]);
    assert!(text.lines().count() <= 50, "{} lines", text.lines().count());
}

#[test]
fn the_manual_has_a_page_for_each_verb_and_every_setting() {
    let pages = BTreeMap::from_iter(dvn_reference::manual().unwrap());
    let page = |name: &str| pages[name].clone();
    let names: Vec<String> = pages.keys().cloned().collect();
    let main = page("darwin-vz-nix.1");
    // Each page but the first is referred to by another one, and hidden verbs have no page.
    let mut known: Vec<String> = names
        .iter()
        .flat_map(|name| page(name).lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.starts_with("darwin\\-vz\\-nix\\-") && line.ends_with("(1)"))
        .map(|line| line.replace('\\', "").replace("(1)", ".1"))
        .chain(["darwin-vz-nix.1".to_owned()])
        .collect();
    known.sort();
    assert!(known == names && names.len() > 12, "{known:?} are referred to, and there are {names:?}");
    for name in names {
        let text = page(&name);
        let heads = |section: &str| text.lines().any(|line| line == format!(".SH {section}"));
        assert!(
            text.lines().any(|line| line.starts_with(&format!(".TH {}", name.trim_end_matches(".1")))),
            "{name}: {text}"
        );
        assert!(heads("NAME") && heads("SYNOPSIS") && heads("OPTIONS"), "{name}: {text}");
        // A line that begins with a dot is a request; an unknown one shows nothing.
        for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
            let request = line.split_whitespace().next().unwrap();
            assert!(
                [".TH", ".SH", ".TP", ".PP", ".IP", ".RS", ".RE", ".br", ".ie", ".el"].contains(&request),
                "{name}: {line}"
            );
        }
    }
    for key in dvn_config::Key::ALL {
        let line = format!("\\fB{}\\fR, {}", key.name().replace('-', "\\-"), key.env());
        assert!(main.lines().any(|found| found == line), "{line} is not in\n{main}");
    }
    assert!(main.contains("NO_COLOR, CLICOLOR and CLICOLOR_FORCE"), "{main}");
    for kind in dvn_types::Kind::ALL {
        assert!(main.contains(&format!("\n.TP\n\\fB{}\\fR\n", kind.exit_code())), "{kind:?} in\n{main}");
    }
}

#[test]
fn the_references_are_fresh() {
    let pages = BTreeMap::from_iter(dvn_reference::pages().unwrap());
    for page in ["cli.md", "config.md", "api-reference.md", "metrics.md", "errors.md", "openapi.json"] {
        let kept = std::fs::read_to_string(format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_default();
        assert!(pages[page] == kept, "docs/{page} is out of date: make references");
    }
}

#[test]
fn the_help_lists_the_exit_code_of_every_kind() {
    let dir = crate::common::private_dir();
    let text = run(dir.path(), &["--help"]);
    for kind in dvn_types::Kind::ALL {
        let code = format!(" {} ", kind.exit_code());
        let (_, codes) = text.split_once("\nExit codes:").unwrap();
        assert!(codes.replace('\n', " ").contains(&code), "{kind:?}");
    }
}
