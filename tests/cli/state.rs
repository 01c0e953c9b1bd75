//! State directories that the daemon refuses: every verb that needs one reports it in one error with a hint, `doctor`
//! finds the same by itself, and nothing hangs.

use super::program;
use dvn_host::machine_dir::StateDir;
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A place for state directories; its settings are beside them.
fn place() -> tempfile::TempDir {
    let dir = crate::common::private_dir();
    fs::write(dir.path().join("config.toml"), "cores = 1\nmemory = \"1G\"\nlisten = \"127.0.0.1:0\"\n").unwrap();
    dir
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Exit code, stdout and stderr of a verb with this state directory.
fn output_of(dir: &Path, state: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = program(dir, args);
    let output = command.env("DARWIN_VZ_NIX_STATE_DIR", state).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A daemon that was told to end has ended.
fn until_no_daemon(state: &Path) {
    let begun = Instant::now();
    while StateDir::open(state).unwrap().lock().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the daemon still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the checks that failed said, with their hints.
fn failed(json: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let failed = json["checks"].as_array().unwrap().iter().filter(|check| check["outcome"] == "failed");
    failed.map(|check| format!("{}: {} {}\n", check["name"], check["evidence"], check["hints"])).collect()
}

/// `start`, `daemon`, `nix-config` and `doctor` refuse a state directory alike.
fn assert_refused(dir: &Path, state: &Path, code: i32, why: &str) {
    for verb in ["start", "daemon", "nix-config"] {
        let (ended, _, error) = output_of(dir, state, &[verb]);
        assert!(ended == code && error.contains(why) && error.contains("hint: "), "{verb}: {ended} {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
    let (ended, json, error) = output_of(dir, state, &["doctor", "--json"]);
    let found = failed(&json);
    assert!(ended == code && found.contains(why), "doctor: {ended} {found}{error}");
}

/// `doctor` finds no fault in it, and a daemon starts.
fn assert_accepted(dir: &Path, state: &Path) {
    let (_, json, _) = output_of(dir, state, &["doctor", "--json", "state-directory", "state-files", "socket-paths"]);
    assert_eq!(failed(&json), "", "{}", state.display());
    let (code, _, error) = output_of(dir, state, &["start"]);
    assert!(code == 6 && error.contains("no guest bundle is configured"), "{}: {error}", state.display());
    assert_eq!(output_of(dir, state, &["stop", "--daemon"]).0, 0);
}

#[test]
fn a_directory_that_another_user_could_replace_is_refused_by_every_verb() {
    let dir = place();
    let way = dir.path().join("way");
    fs::create_dir(&way).unwrap();
    set_mode(&way, 0o777);
    let reason = format!("every user may write in {}", way.display());
    assert_refused(dir.path(), &way.join("s"), 9, &reason);
    assert_refused(dir.path(), &way.join("deeper/s"), 9, &reason);
    assert_eq!(fs::read_dir(&way).unwrap().count(), 0, "nothing is made there");
    symlink(&way, dir.path().join("link")).unwrap();
    assert_refused(dir.path(), &dir.path().join("link/s"), 9, &reason);
    // A link to the state directory itself, in and to a safe place.
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    set_mode(&real, 0o700);
    symlink(&real, dir.path().join("safe-link")).unwrap();
    symlink(&real, way.join("link")).unwrap();
    assert_refused(dir.path(), &way.join("link"), 9, &reason);
    assert_accepted(dir.path(), &dir.path().join("safe-link"));
    set_mode(&way, 0o1777);
    assert_accepted(dir.path(), &way.join("s"));
    // A group may be the user's private one.
    set_mode(&way, 0o775);
    let (code, _, error) = output_of(dir.path(), &way.join("s"), &["start"]);
    assert!(code == 6 && error.contains("a group may write in"), "{error}");
    assert_eq!(output_of(dir.path(), &way.join("s"), &["stop", "--daemon"]).0, 0);
    let (_, text, _) = output_of(dir.path(), &way.join("s"), &["doctor", "state-directory"]);
    assert!(text.starts_with("warning  state-directory"), "{text}");
}

#[test]
fn a_path_that_nix_or_ssh_would_misread_is_refused_by_every_verb() {
    let dir = place();
    for (name, why) in [("a b", "a blank"), ("50%", "'%'"), ("a;b", "';'"), ("a#b", "'#'"), ("a$b", "'$'")] {
        let state = dir.path().join(name);
        assert_refused(dir.path(), &state, 9, why);
        assert!(!state.exists(), "nothing is made there");
    }
    // A state directory of an older version of this program.
    let old = dir.path().join("old state");
    fs::create_dir(&old).unwrap();
    set_mode(&old, 0o700);
    assert_refused(dir.path(), &old, 9, "a blank");
    let long = "x".repeat(100);
    assert_refused(dir.path(), &dir.path().join(&long), 9, &long);
    assert_accepted(dir.path(), &dir.path().join("é,x=y@z+~"));
}

#[test]
fn one_that_cannot_be_made_is_named_by_every_verb() {
    let dir = place();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for state in [file.clone(), file.join("s"), "/proc/state".into()] {
        assert_refused(dir.path(), &state, 9, &state.display().to_string());
    }
}

/// Each kind of irregular file, in place of each file of the daemon: an error with a hint, or a daemon.
#[test]
fn no_verb_hangs_on_a_pipe_in_place_of_a_file() {
    let dir = place();
    let state = dir.path().join("s");
    assert_accepted(dir.path(), &state);
    assert_eq!(output_of(dir.path(), &state, &["token"]).0, 0);
    let machine = state.join("machines/builder");
    let pipe = |path: &Path| {
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    for file in ["known_hosts", "id_ed25519.pub", "darwin-vz-nix-connect"] {
        pipe(&machine.join(file));
        assert_accepted(dir.path(), &state);
        assert!(machine.join(file).metadata().unwrap().is_file(), "{file}");
    }
    pipe(&state.join("daemon.log"));
    assert_accepted(dir.path(), &state);
    for file in ["lock", "machines/builder/id_ed25519", "machines/builder/ssh_host_ed25519_key"] {
        let path = state.join(file);
        let before = path.with_extension("before");
        fs::rename(&path, &before).unwrap();
        pipe(&path);
        for verb in [&["start"][..], &["daemon"]] {
            let (code, _, error) = output_of(dir.path(), &state, verb);
            assert!(code == 9 && error.contains("it is a pipe") && error.contains("hint: move it away"), "{error}");
            // The daemon that `start` began stays where only the machine is at fault.
            let (code, _, error) = output_of(dir.path(), &state, &["stop", "--daemon"]);
            assert!(matches!(code, 0 | 4) && !error.contains("panicked"), "{error}");
            if code == 0 {
                until_no_daemon(&state);
            }
        }
        let (_, text, _) = output_of(dir.path(), &state, &["doctor"]);
        assert!(text.contains("it is a pipe"), "{file}: {text}");
        fs::rename(&before, &path).unwrap();
    }
    for (file, verb) in [("api-token", &["token"][..]), ("daemon.log", &["logs"]), ("daemon.log", &["logs", "-f"])] {
        pipe(&state.join(file));
        let (code, _, error) = output_of(dir.path(), &state, verb);
        assert!(code == 9 && error.contains("it is a pipe") && error.contains("hint: "), "{verb:?}: {error}");
    }
    assert_eq!(output_of(dir.path(), &state, &["token", "--rotate"]).0, 0);
}

/// A user without write permission: if root runs the tests, `nobody`, with a copy of the program.
#[test]
fn one_that_this_user_cannot_write_is_found_by_doctor_as_by_start() {
    let dir = place();
    let as_root = fs::metadata(dir.path()).unwrap().uid() == 0;
    let theirs: PathBuf = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let (mut program, user) = (PathBuf::from(env!("CARGO_BIN_EXE_darwin-vz-nix")), 65534);
    if as_root {
        set_mode(dir.path(), 0o755);
        let copy = dir.path().join("program");
        fs::copy(&program, &copy).unwrap();
        program = copy;
    }
    set_mode(&theirs, 0o555);
    let state = theirs.join("s");
    let ask = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir.path()).current_dir("/").stdin(Stdio::null());
        command.arg("--config").arg(dir.path().join("config.toml")).arg("--state-dir").arg(&state).args(args);
        if as_root {
            command.uid(user).gid(user);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, error) = ask(&["start"]);
    assert!(code == Some(9) && error.contains(&format!("cannot make the directory {}", state.display())), "{error}");
    let (code, json, _) = ask(&["doctor", "state-directory", "--json"]);
    assert_eq!(code, Some(9), "{json}");
    assert!(failed(&json).contains(&format!("cannot make the directory {}", state.display())), "{json}");
    // And an existing directory of this user, whose files are another's or not accessible.
    set_mode(&theirs, 0o755);
    fs::create_dir(&state).unwrap();
    fs::write(state.join("daemon.log"), "").unwrap();
    set_mode(&state.join("daemon.log"), 0o000);
    set_mode(&state, 0o700);
    if as_root {
        std::os::unix::fs::chown(&state, Some(user), Some(user)).unwrap();
    }
    let (code, _, error) = ask(&["start"]);
    assert!(code == Some(9) && error.contains("daemon.log") && error.contains("hint: "), "{error}");
    let (code, json, _) = ask(&["doctor", "state-directory", "state-files", "--json"]);
    assert!(code == Some(9) && failed(&json).contains("daemon.log"), "{json}");
    set_mode(&state, 0o500);
    let (code, _, error) = ask(&["nix-config"]);
    assert!(code == Some(9) && error.contains(&state.display().to_string()), "{error}");
    let (code, json, _) = ask(&["doctor", "state-directory", "--json"]);
    assert!(code == Some(9) && failed(&json).contains(&format!("cannot write in {}", state.display())), "{json}");
    set_mode(&state, 0o700);
}
