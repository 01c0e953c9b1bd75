//! Help, completions, the reference, and wrong command lines.

use super::run;
use insta::assert_snapshot;
use std::collections::BTreeMap;

fn help(verb: &str) -> String {
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
    A Linux builder for Nix that starts when a build needs it and stops when idle

    Usage: darwin-vz-nix [OPTIONS] <COMMAND>

    Commands:
      start         Start the machine, and the daemon if none runs
      stop          Stop the machine; the next connection starts it again
      pause         Have the guest stand still; the next connection has it go on
      resume        Have a paused guest go on
      status        Show the machines
      ssh           Open a shell in the guest, or run a command there; starts what does not run
      connect       Join stdin and stdout to a service of the guest, for Nix and ssh to call
      run           Run the daemon in the foreground
      logs          Show the daemon's log, the guest's console or a build's log
      generations   Show the guest systems built from the recipe; go back, build, delete
      doctor        Look for what is wrong, and repair it if asked to
      destroy       Stop the machine and delete its disk, keys and generations
      nix-config    Print what a host needs to build on the machine
      config        Show the settings that count, and where each comes from
      token         Print the token that the HTTP API asks for on TCP, or make a new one
      capabilities  Show what this computer and this program can do, and why not
      completions   Print a completion script for a shell

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Global options:
          --state-dir <DIR>    Where all state lives; also says which daemon is meant
          --config <FILE>      Configuration file
          --machine <NAME>     Machine [default: builder, or the only one]
          --log-level <LEVEL>  How much is logged: error, warn, info, debug, trace
          --color <WHEN>       When to colour [possible values: auto, always, never]
      -v, --verbose...         Log more; twice for still more

    Examples:
      darwin-vz-nix start                  boot the machine now, and show where the time goes
      darwin-vz-nix ssh -- uname -a        run a command in it; starts what does not run
      darwin-vz-nix nix-config             what to put into Nix's configuration to build on it
      darwin-vz-nix doctor                 look for what is wrong

    Exit codes: 0 done; 2 wrong command line; 3 wrong setting; 4 no daemon answers; 5 this computer
    lacks something; 6 guest bundle; 7 the guest did not come up; 8 somebody else has it; 9 state
    directory; 10 connection to the guest; 11 no such machine or generation; 70 a fault of this program.
    The manual, darwin-vz-nix(1), tells more.
    ");
}

#[test]
fn every_verb() {
    assert_snapshot!(help("start"), @r"
    exit 0
    --- stdout
    Start the machine, and the daemon if none runs

    Usage: darwin-vz-nix start [OPTIONS]

    Options:
          --cores <N>         Processors of the guest, for this boot
          --memory <SIZE>     Memory of the guest, for this boot, such as 8G
          --disk-size <SIZE>  Size of the data disk, such as 100G; a disk can grow, not shrink
          --json              Print the machine's status as JSON
      -h, --help              Print help
    ");
    assert_snapshot!(help("stop"), @r"
    exit 0
    --- stdout
    Stop the machine; the next connection starts it again

    Usage: darwin-vz-nix stop [OPTIONS]

    Options:
          --force   Pull the plug instead of pressing the power button
          --daemon  Stop every machine and end the daemon
          --json    Print the machine's status as JSON
      -h, --help    Print help
    ");
    assert_snapshot!(help("status"), @r"
    exit 0
    --- stdout
    Show the machines

    Usage: darwin-vz-nix status [OPTIONS]

    Options:
          --json         Print everything as JSON; with --watch one line for each change
          --watch        Show it anew whenever it changes, until interrupted
          --connections  Show the connections to the machines instead
      -h, --help         Print help
    ");
    assert_snapshot!(help("ssh"), @r"
    exit 0
    --- stdout
    Open a shell in the guest, or run a command there; starts what does not run

    Usage: darwin-vz-nix ssh [OPTIONS] [-- <COMMAND>...]

    Arguments:
      [COMMAND]...  A command to run in the guest, instead of a shell

    Options:
      -h, --help  Print help
    ");
    assert_snapshot!(help("connect"), @r"
    exit 0
    --- stdout
    Join stdin and stdout to a service of the guest, for Nix and ssh to call

    Usage: darwin-vz-nix connect [OPTIONS]

    Options:
          --service <SERVICE>  Service of the guest [default: nix] [possible values: nix, ssh]
      -h, --help               Print help (see more with '--help')
    ");
    assert_snapshot!(help("run"), @r"
    exit 0
    --- stdout
    Run the daemon in the foreground

    Usage: darwin-vz-nix run [OPTIONS]

    Options:
          --api-listen <ADDRESS>  Where the HTTP API answers on TCP, too: a loopback address and port
      -h, --help                  Print help (see more with '--help')

    Settings of the machine:
          --cores <N>             Processors of the guest
          --memory <SIZE>         Memory of the guest, such as 8G
          --disk-size <SIZE>      Size of the data disk, such as 100G
          --ephemeral[=<BOOL>]    Begin each boot with an empty data disk
          --idle-timeout <TIME>   Minutes unused until the guest is stopped; 0 is never
          --listen <ADDRESS>      Where ssh clients reach it: a loopback address and port
          --bundle <DIR>          Directory of the guest bundle
          --recipe <DRV>          A derivation of the host's store, whose output is the guest bundle to
                                  build and change to
          --nix <DIR>             Directory with the host's nix, for the recipe
          --rosetta[=<BOOL>]      Let an aarch64 guest run x86_64 programs through Rosetta
          --share-store[=<BOOL>]  Let the guest build on the host's store
          --store-dir <DIR>       The host's store, as a directory
          --store-daemon <FILE>   The socket of the host's Nix daemon
          --backend <NAME>        auto, or what runs the guest: vz (macOS) or qemu (Linux)
          --accelerator <NAME>    auto, or force kvm or tcg
          --boot-timeout <TIME>   Seconds that a boot may take
          --stop-grace <TIME>     Seconds that a guest may take to power off before it is killed
          --hang-timeout <TIME>   Seconds without an answer until a guest in use is killed; 0 is never
    ");
    assert_snapshot!(help("logs"), @r"
    exit 0
    --- stdout
    Show the daemon's log, the guest's console or a build's log

    Usage: darwin-vz-nix logs [OPTIONS]

    Options:
          --console    The guest's serial console instead of the daemon's log
          --boot <N>   The console of a boot: 0 the last, -1 the one before, or a number of --boots
          --boots      What became of the last boots, and why
          --build      What was said when the recipe was built last
      -f, --follow     Go on with what is written from now on
      -n, --lines <N>  Only the last lines [default: all; with --follow 10]
      -h, --help       Print help
    ");
    assert_snapshot!(help("destroy"), @r"
    exit 0
    --- stdout
    Stop the machine and delete its disk, keys and generations

    Usage: darwin-vz-nix destroy [OPTIONS]

    Options:
      -y, --yes               Do not ask
          --keep-keys         Keep the keys, so that hosts which know the machine need not be told anew
          --keep-generations  Keep the guest systems that were built from the recipe
      -h, --help              Print help
    ");
    assert_snapshot!(help("generations"), @r"
    exit 0
    --- stdout
    Show the guest systems built from the recipe; go back, build, delete

    Usage: darwin-vz-nix generations [OPTIONS] [COMMAND]

    Commands:
      rollback  Go back to a generation that worked, until the recipe changes
      build     Build the recipe and try it, also if that has failed before
      delete    Delete generations that are not in use

    Options:
          --json  Print everything as JSON
      -h, --help  Print help
    ");
    assert_snapshot!(help("nix-config"), @r"
    exit 0
    --- stdout
    Print what a host needs to build on the machine

    Usage: darwin-vz-nix nix-config [OPTIONS]

    Options:
          --door <DOOR>     The way in: direct joins Nix to the guest's nix-daemon, ssh goes through its
                            sshd [default: direct] [possible values: direct, ssh]
          --only <SECTION>  Print one section alone, without comments, for scripts [possible values:
                            builders, ssh, known-hosts]
          --json            Print every section as JSON
      -h, --help            Print help (see more with '--help')
    ");
    assert_snapshot!(help("config"), @r"
    exit 0
    --- stdout
    Show the settings that count, and where each comes from

    Usage: darwin-vz-nix config [OPTIONS]

    Options:
          --json    Print it as JSON
          --daemon  Those that the running daemon goes by, which may be older
      -h, --help    Print help (see more with '--help')

    Settings of the machine:
          --cores <N>             Processors of the guest
          --memory <SIZE>         Memory of the guest, such as 8G
          --disk-size <SIZE>      Size of the data disk, such as 100G
          --ephemeral[=<BOOL>]    Begin each boot with an empty data disk
          --idle-timeout <TIME>   Minutes unused until the guest is stopped; 0 is never
          --listen <ADDRESS>      Where ssh clients reach it: a loopback address and port
          --bundle <DIR>          Directory of the guest bundle
          --recipe <DRV>          A derivation of the host's store, whose output is the guest bundle to
                                  build and change to
          --nix <DIR>             Directory with the host's nix, for the recipe
          --rosetta[=<BOOL>]      Let an aarch64 guest run x86_64 programs through Rosetta
          --share-store[=<BOOL>]  Let the guest build on the host's store
          --store-dir <DIR>       The host's store, as a directory
          --store-daemon <FILE>   The socket of the host's Nix daemon
          --backend <NAME>        auto, or what runs the guest: vz (macOS) or qemu (Linux)
          --accelerator <NAME>    auto, or force kvm or tcg
          --boot-timeout <TIME>   Seconds that a boot may take
          --stop-grace <TIME>     Seconds that a guest may take to power off before it is killed
          --hang-timeout <TIME>   Seconds without an answer until a guest in use is killed; 0 is never
    ");
    assert_snapshot!(help("token"), @r"
    exit 0
    --- stdout
    Print the token that the HTTP API asks for on TCP, or make a new one

    Usage: darwin-vz-nix token [OPTIONS]

    Options:
          --rotate  Make a new one; the old one is void at once, also for a daemon that runs
          --path    Print where it is, and make nothing
          --json    Print it as JSON, with its file and where the API answers
      -h, --help    Print help
    ");
    assert_snapshot!(help("capabilities"), @r"
    exit 0
    --- stdout
    Show what this computer and this program can do, and why not

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

    Usage: darwin-vz-nix stop --force

    For more information, try '--help'.
    ");
    assert_snapshot!(run(dir.path(), &["--machine", "A/B", "status"]), @r#"
    exit 2
    --- stderr
    error: invalid value 'A/B' for '--machine <NAME>': "A/B" is not a machine name: use 1 to 32 of a-z, 0-9 and '-', starting with a letter

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
        let lines = if ["run", "config"].contains(&verb.as_str()) { 50 } else { 30 };
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
