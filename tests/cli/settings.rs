//! Settings as given on the command line, in the environment and in the file.

use super::{program, run, transcript};
use insta::assert_snapshot;

fn with_file(text: &str, args: &[&str]) -> String {
    let dir = crate::common::private_dir();
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
    run(dir.path(), args)
}

#[test]
fn config_shows_what_counts_and_where_it_comes_from() {
    let dir = crate::common::private_dir();
    std::fs::write(
        dir.path().join("config.toml"),
        "cores = 1\n\n[machines.builder]\nmemory = \"512M\"\nbundle = \"guest\"\n",
    )
    .unwrap();
    let mut command = program(dir.path(), &["config", "--idle-timeout", "30s", "--share-store"]);
    command.env("DARWIN_VZ_NIX_LISTEN", "[::1]:2222");
    // Columns are as wide as the test's directory is long.
    let text = transcript(dir.path(), command);
    let text: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_snapshot!(text.join("\n"), @r"
    exit 0
    --- stdout
    MACHINE SETTING VALUE FROM
    - state-dir [DIR] DARWIN_VZ_NIX_STATE_DIR
    - log-level info default
    - api-listen none default
    builder cores 1 [DIR]/config.toml:1
    builder memory 512M [DIR]/config.toml:4
    builder disk-size 100G default
    builder ephemeral false default
    builder idle-timeout 30s --idle-timeout
    builder listen [::1]:2222 DARWIN_VZ_NIX_LISTEN
    builder bundle [DIR]/guest [DIR]/config.toml:5
    builder recipe - default
    builder nix - default
    builder rosetta false default
    builder nested-virtualization false default
    builder share-store true --share-store
    builder store-dir /nix/store default
    builder store-daemon /nix/var/nix/daemon-socket/socket default
    builder backend auto default
    builder accelerator auto default
    builder boot-timeout 3m default
    builder stop-grace 30s default
    builder hang-timeout 5m default
    ");
    let json = run(dir.path(), &["config", "--json"]);
    let json = json.strip_prefix("exit 0\n--- stdout\n").unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(
        json["machines"]["builder"]["memory"],
        serde_json::json!({"value": "512M", "origin": "[DIR]/config.toml:4"})
    );
    assert_eq!(json["daemon"]["state-dir"], serde_json::json!({"value": "[DIR]", "origin": "DARWIN_VZ_NIX_STATE_DIR"}));
}

#[test]
fn mistakes_in_the_file() {
    assert_snapshot!(with_file("\nmemroy = 1\n", &["status"]), @r#"
    exit 3
    --- stderr
    error: [DIR]/config.toml:2: there is no setting "memroy"
      hint: did you mean memory?
    "#);
    assert_snapshot!(with_file("cores = 0\n", &["daemon"]), @r"
    exit 3
    --- stderr
    error: [DIR]/config.toml:1: cores = 0: a guest needs a processor
      hint: give 1 or more
    ");
    assert_snapshot!(with_file("[machines.ci]\nlisten = \"0.0.0.0:1\"\n", &["config"]), @r"
    exit 3
    --- stderr
    error: [DIR]/config.toml:2: listen = 0.0.0.0:1: that would let other computers in
      hint: give 127.0.0.1:1 or [::1]:1
    ");
    assert_snapshot!(with_file("cores = \n", &["stop"]), @r#"
    exit 3
    --- stderr
    error: [DIR]/config.toml:1: this is not TOML: string values must be quoted, expected literal string
      hint: a setting is written `cores = 4` or, with text, `memory = "8G"`
    "#);
    assert_snapshot!(with_file("[machines.a]\n[machines.b]\n", &["stop"]), @r"
    exit 3
    --- stderr
    error: there are several machines (a, b), and it is not clear which one is meant
      hint: name it with --machine
    ");
    assert_snapshot!(with_file("", &["--machine", "ci", "stop"]), @r"
    exit 11
    --- stderr
    error: there is no machine ci; there are: builder
      hint: name one of these with --machine, or add a table [machines.ci] to the configuration file
    ");
    assert_snapshot!(with_file("", &["--machine", "biulder", "stop"]), @r"
    exit 11
    --- stderr
    error: there is no machine biulder; there are: builder
      hint: did you mean builder?
    ");
    assert_snapshot!(with_file("cores = 0\n", &["config", "--json"]), @r#"
    exit 3
    --- stdout
    {"kind":"config","message":"[DIR]/config.toml:1: cores = 0: a guest needs a processor","hints":["give 1 or more"]}
    --- stderr
    error: [DIR]/config.toml:1: cores = 0: a guest needs a processor
      hint: give 1 or more
    "#);
}

#[test]
fn mistakes_in_flags_and_variables() {
    let dir = crate::common::private_dir();
    assert_snapshot!(run(dir.path(), &["start", "--cores", "0"]), @r"
    exit 3
    --- stderr
    error: --cores = 0: a guest needs a processor
      hint: give 1 or more
    ");
    assert_snapshot!(run(dir.path(), &["start", "--memory", "much"]), @r#"
    exit 3
    --- stderr
    error: --memory cannot be "much"
      hint: give a size such as 8G or 512M, or a number of MiB
    "#);
    assert_snapshot!(run(dir.path(), &["daemon", "--disk-size", "65T"]), @r"
    exit 3
    --- stderr
    error: --disk-size = 65T: more than 64T cannot be meant
      hint: give a size such as 100G
    ");
    assert_snapshot!(run(dir.path(), &["--log-level", "loud", "status"]), @r#"
    exit 3
    --- stderr
    error: --log-level cannot be "loud"
      hint: give error, warn, info, debug or trace
    "#);
    assert_snapshot!(run(dir.path(), &["--config", "none.toml", "status"]), @r"
    exit 3
    --- stderr
    error: the configuration file [DIR]/none.toml cannot be read: No such file or directory (os error 2)
      hint: check the path and its permissions, or leave --config out
    ");
    let with = |name: &str, value: &str| {
        let mut command = program(dir.path(), &["daemon"]);
        command.env(name, value);
        transcript(dir.path(), command)
    };
    assert_snapshot!(with("DARWIN_VZ_NIX_CROES", "1"), @r"
    exit 3
    --- stderr
    error: the environment variable DARWIN_VZ_NIX_CROES is set, but there is no setting of that name
      hint: did you mean DARWIN_VZ_NIX_CORES?
    ");
    assert_snapshot!(with("DARWIN_VZ_NIX_MEMORY", "1M"), @r"
    exit 3
    --- stderr
    error: DARWIN_VZ_NIX_MEMORY = 1M: a guest needs 256M at least
      hint: give 1G or more
    ");
    assert_snapshot!(with("DARWIN_VZ_NIX_MACHINE", "-"), @r#"
    exit 3
    --- stderr
    error: DARWIN_VZ_NIX_MACHINE: "-" is not a machine name: a name does not begin with a dash, which is for flags
    "#);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the settings: a mistake leaves nothing behind");
}
