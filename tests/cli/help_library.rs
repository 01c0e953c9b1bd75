//! The help of the verbs for machines of the library.

use super::help::help;
use insta::assert_snapshot;

#[test]
fn every_verb_of_the_library() {
    assert_snapshot!(help("create"), @r"
    exit 0
    --- stdout
    Make a machine with an empty disk

    Usage: darwin-vz-nix create [OPTIONS] <NAME>

    Arguments:
      <NAME>  Name of the new machine

    Options:
          --from-iso <FILE>   Image with an installer; attached until the guest has powered itself off
          --linux             For Linux, which is the default
          --disk-size <SIZE>  Size of its disk, which takes only what is written [default: 50GB]
          --cores <N>         Virtual processors [default: 4, or as many as there are] [alias: --cpu]
          --memory <SIZE>     Memory, such as 2G [default: 4G]
          --arch <ARCH>       Architecture [default: the installer's] [possible values: aarch64, x86_64]
          --json              Print the machine as JSON
      -h, --help              Print help (see more with '--help')
    ");
    assert_snapshot!(help("clone"), @r"
    exit 0
    --- stdout
    Make a copy of a machine that does not run

    Usage: darwin-vz-nix clone [OPTIONS] <SOURCE> <NAME>

    Arguments:
      <SOURCE>  Machine, which must not run
      <NAME>    Name of the copy

    Options:
          --json  Print the copy as JSON
      -h, --help  Print help (see more with '--help')
    ");
    assert_snapshot!(help("list"), @r"
    exit 0
    --- stdout
    List the machines

    Usage: darwin-vz-nix list [OPTIONS]

    Options:
          --space  Also show the space that each disk takes: its own, which a deletion frees, and shared
                   with copies
      -q, --quiet  Print only the names, one a line
          --json   Print everything as JSON
      -h, --help   Print help
    ");
    assert_snapshot!(help("get"), @r"
    exit 0
    --- stdout
    Show what a machine is made of

    Usage: darwin-vz-nix get [OPTIONS] <NAME>

    Arguments:
      <NAME>  Machine

    Options:
          --json  Print everything as JSON
      -h, --help  Print help
    ");
    assert_snapshot!(help("set"), @r"
    exit 0
    --- stdout
    Change what a stopped machine is made of

    Usage: darwin-vz-nix set [OPTIONS] <NAME>

    Arguments:
      <NAME>  Machine

    Options:
          --cores <N>         Virtual processors [alias: --cpu]
          --memory <SIZE>     Memory, such as 4G
          --disk-size <SIZE>  Size of its disk, such as 100G; a disk can grow, not shrink
          --display <SIZE>    Size of its display: 1920x1080, with px or pt if it has a unit
          --display-refit     Let the guest's resolution follow the size of a window
          --no-display-refit  Let the guest keep its resolution
          --random-mac        Give it a new random MAC address
          --json              Print the machine as JSON
      -h, --help              Print help (see more with '--help')
    ");
    assert_snapshot!(help("rename"), @r"
    exit 0
    --- stdout
    Give a machine another name

    Usage: darwin-vz-nix rename [OPTIONS] <OLD> <NEW>

    Arguments:
      <OLD>  Machine, which must not run
      <NEW>  Its new name

    Options:
          --json  Print the machine as JSON
      -h, --help  Print help
    ");
    assert_snapshot!(help("delete"), @r"
    exit 0
    --- stdout
    Delete machines with their disks

    Usage: darwin-vz-nix delete [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  Machines, by name or by a pattern with *, ? or [a-z] in quotes

    Options:
          --json  Print what was deleted and what was not as JSON
      -h, --help  Print help (see more with '--help')
    ");
    assert_snapshot!(help("run"), @r"
    exit 0
    --- stdout
    Boot a machine and show its console until its guest ends

    Usage: darwin-vz-nix run [OPTIONS] <NAME>

    Arguments:
      <NAME>  Machine

    Options:
          --no-graphics             Without a screen, keyboard and pointer
          --disk <PATH[:ro]>        Attach an image as a further disk; :ro forbids writing
          --dir <[NAME:]PATH[:ro]>  Share a directory, under NAME as its tag; :ro forbids writing
          --expose <HOST:GUEST>     Let a port of this computer's loopback address lead to the guest's
          --detach                  Return when it runs
          --wait-for <WHAT>         Wait until it has this: agent, ip (an address) or port:N
          --timeout <SECONDS>       Give up waiting after this many seconds [default: 300]
      -h, --help                    Print help (see more with '--help')
    ");
    assert_snapshot!(help("suspend"), @r"
    exit 0
    --- stdout
    Save a machine's memory and end its guest

    Usage: darwin-vz-nix suspend [OPTIONS] <NAME>

    Arguments:
      <NAME>  Machine

    Options:
          --json  Print the machine as JSON
      -h, --help  Print help (see more with '--help')
    ");
    assert_snapshot!(help("exec"), @r"
    exit 0
    --- stdout
    Run a command in a running machine

    Usage: darwin-vz-nix exec [OPTIONS] <NAME> <COMMAND>...

    Arguments:
      <NAME>        Machine
      <COMMAND>...  Command and its arguments

    Options:
      -i, --interactive       Forward stdin
      -t, --tty               Run it on a terminal
      -u, --user <USER>       User, by name or number [default: the agent's, which is root]
      -w, --workdir <DIR>     Working directory [default: the user's home]
      -e, --env <NAME=VALUE>  Set an environment variable
      -d, --detach            Print the number of its process in the guest, and do not wait for it
      -h, --help              Print help (see more with '--help')
    ");
    assert_snapshot!(help("ip"), @r"
    exit 0
    --- stdout
    Print the address of a running machine

    Usage: darwin-vz-nix ip [OPTIONS] <NAME>

    Arguments:
      <NAME>  Machine

    Options:
          --wait <SECONDS>  Wait this many seconds for an address, and for the machine to be started
          --json            Print all addresses as JSON
      -h, --help            Print help (see more with '--help')
    ");
    assert_snapshot!(help("screenshot"), @r"
    exit 0
    --- stdout
    Save the screen of a running machine as a PNG

    Usage: darwin-vz-nix screenshot [OPTIONS] <NAME> [FILE]

    Arguments:
      <NAME>  Machine
      [FILE]  File to write [default: NAME.png]; - is stdout

    Options:
          --force  Replace the file if there is one
      -h, --help   Print help
    ");
    assert_snapshot!(help("pause"), @r"
    exit 0
    --- stdout
    Pause the guest; the next connection resumes that of a builder

    Usage: darwin-vz-nix pause [OPTIONS] [NAME]

    Arguments:
      [NAME]  Machine, of the library or not [default: that of --machine]

    Options:
          --json  Print the machine's status as JSON
      -h, --help  Print help
    ");
    assert_snapshot!(help("resume"), @r"
    exit 0
    --- stdout
    Resume a paused guest

    Usage: darwin-vz-nix resume [OPTIONS] [NAME]

    Arguments:
      [NAME]  Machine, of the library or not [default: that of --machine]

    Options:
          --json  Print the machine's status as JSON
      -h, --help  Print help
    ");
}
