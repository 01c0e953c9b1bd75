//! Compares the tables of `docs/guest-contract.md` with the constants and types of host and agent, and with all three
//! guests: the Debian test guest as built, the base guest and the NixOS guest as evaluated (`tests/nix/guests.json`,
//! which `make check-nix` verifies).

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use dvn_guest::bundle::{self, Bundle};
use dvn_protocol::{
    AGENT_PORT, GuestConfig, HostPorts, NIX_PORT, PAYLOAD_DIR, SSH_PORT, STORE_PORT, ShareMount, VERSION,
    messages::{Answer, Ask, FromAgent, MAX_LINE},
    service::{Call, Exec, Frame, Reply, SERVICE_PORT, TtySize, frames::MAX_DATA},
};
use dvn_types::Arch;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The page.
struct Page(String);

impl Page {
    fn read() -> Page {
        Page(fs::read_to_string(project("docs/guest-contract.md")).unwrap())
    }

    /// The rows of the table in this section whose first column has this head, as cells.
    fn table(&self, section: &str, head: &str) -> Vec<Vec<String>> {
        let from = self.0.split(&format!("\n## {section}\n")).nth(1).unwrap_or_else(|| panic!("no section {section}"));
        let section = from.split("\n## ").next().unwrap();
        let mut lines = section.lines().skip_while(|line| !line.starts_with(&format!("| {head} |")));
        assert!(lines.next().is_some(), "no table of {head}");
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let rows: Vec<Vec<String>> = rows.map(cells).collect();
        assert!(!rows.is_empty(), "the table of {head} is empty");
        rows
    }

    /// The second cell of the row which begins with this word.
    fn row(&self, section: &str, head: &str, first: &str) -> String {
        let rows = self.table(section, head);
        let row = rows.iter().find(|row| row[0] == first).unwrap_or_else(|| panic!("no row {first} in {section}"));
        row[1].clone()
    }
}

/// The texts between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn first_quoted(rows: &[Vec<String>]) -> BTreeSet<String> {
    rows.iter().map(|row| quoted(&row[0])[0].clone()).collect()
}

/// The variants of an enumeration, as its deserializer lists them in the error for an unknown one.
fn variants<T: DeserializeOwned>(tag: &str) -> BTreeSet<String> {
    let error = serde_json::from_value::<T>(json!({ tag: "no such" })).err().unwrap().to_string();
    let known: BTreeSet<String> = quoted(&error).into_iter().skip(1).collect();
    assert!(known.len() > 1, "{error}");
    known
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn evaluated() -> Value {
    serde_json::from_str(&fs::read_to_string(project("tests/nix/guests.json")).unwrap()).unwrap()
}

/// The Debian test guest's bundle.
fn built() -> PathBuf {
    std::env::var_os("DVN_TEST_BUNDLE").map(PathBuf::from).expect("DVN_TEST_BUNDLE names no bundle: run `make test`")
}

/// Every guest's manifest, by the guest's name.
fn manifests() -> BTreeMap<&'static str, Value> {
    let evaluated = evaluated();
    let debian = serde_json::from_slice(&fs::read(built().join("guest.json")).unwrap()).unwrap();
    [("base", &evaluated["base"]["manifest"]), ("nixos", &evaluated["nixos"]["manifest"]), ("debian", &debian)]
        .map(|(name, manifest)| (name, manifest.clone()))
        .into()
}

#[test]
fn the_page_has_the_numbers_and_words_of_host_and_agent() {
    let page = Page::read();
    assert!(page.0.contains(&format!("This is version {VERSION}.")) && u64::from(VERSION) == bundle::VERSION);
    let ports = page.table("vsock ports", "port");
    let port = |number: u32, listens: &str, what: &str| {
        let row = ports.iter().find(|row| row[0] == number.to_string()).unwrap_or_else(|| panic!("no port {number}"));
        assert!(row[1] == listens && row[2].contains(what), "{row:?}");
    };
    port(SSH_PORT, "guest", "sshd");
    port(NIX_PORT, "guest", "nix-daemon");
    port(SERVICE_PORT, "guest", "agent as a service");
    port(AGENT_PORT, "host", "agent protocol");
    port(STORE_PORT, "host", "gate");
    for named in [HostPorts::HIGH.agent, HostPorts::HIGH.store] {
        assert!(page.0.contains(&named.to_string()), "the page does not name {named}");
    }

    for file in page.table("Boot payload", "file").iter().flat_map(|row| quoted(&row[0])) {
        assert!(file.starts_with(&format!("{PAYLOAD_DIR}/")), "{file}");
    }
    let share = ShareMount { tag: String::new(), mount_point: String::new(), read_only: true };
    let config = GuestConfig {
        version: VERSION,
        token: String::new(),
        host_name: String::new(),
        unix_seconds: 0,
        host_ports: HostPorts::FIRST,
        shares: vec![share],
        store_record: Some(String::new()),
        cache_disk: Some(String::new()),
    };
    let config = serde_json::to_value(config).unwrap();
    let documented = page.row("Boot payload", "file", "`darwin-vz/config.json`");
    let words: BTreeSet<String> = documented
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let inner = &keys(&config["shares"][0]) | &keys(&config["hostPorts"]);
    assert_eq!(words, &keys(&config) | &inner, "config.json");

    assert!(page.0.contains(&format!("{},{:03} bytes", MAX_LINE / 1000, MAX_LINE % 1000)), "the longest line");
    let verbs = page.table("Agent protocol", "verb");
    assert_eq!(first_quoted(&verbs), variants::<Ask>("verb"));
    let kinds: BTreeSet<String> = verbs.iter().map(|row| quoted(&row[2])[0].clone()).collect();
    assert_eq!(kinds, variants::<Answer>("kind"));
    let messages: BTreeSet<String> = page
        .table("Agent protocol", "message")
        .iter()
        .map(|row| serde_json::from_str::<Value>(&quoted(&row[0])[0]).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(messages, variants::<FromAgent>("type"));
}

#[test]
fn the_page_has_the_calls_and_frames_of_the_agent_as_a_service() {
    const SECTION: &str = "The agent as a service";
    let page = Page::read();
    let calls = page.table(SECTION, "call");
    assert_eq!(first_quoted(&calls), variants::<Call>("call"));
    let kinds: BTreeSet<String> = calls.iter().map(|row| quoted(&row[2])[0].clone()).collect();
    assert_eq!(kinds, variants::<Reply>("kind"));
    let every = Exec {
        command: "x".into(),
        args: vec![String::new()],
        env: [("A".into(), String::new())].into(),
        workdir: Some(String::new()),
        user: Some(String::new()),
        tty: Some(TtySize { rows: 0, cols: 0 }),
        stdin: true,
        detach: true,
    };
    let fields: BTreeSet<String> = page.table(SECTION, "field").iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(fields, keys(&serde_json::to_value(every).unwrap()));
    let section = page.0.split(&format!("## {SECTION}\n")).nth(1).unwrap();
    assert!(section.contains(&format!("{},{:03}), the data", MAX_DATA / 1000, MAX_DATA % 1000)), "the longest frame");
    for (frame, name) in [
        (Frame::Stdin(b""), "stdin"),
        (Frame::Stdout(b""), "stdout"),
        (Frame::Stderr(b""), "stderr"),
        (Frame::Resize(TtySize { rows: 0, cols: 0 }), "resize"),
        (Frame::Signal(0), "signal"),
        (Frame::Exit(0), "exit"),
        (Frame::Killed(0), "killed"),
    ] {
        let rows = page.table(SECTION, "kind");
        let row = rows.iter().find(|row| row[0] == frame.to_bytes()[0].to_string()).unwrap();
        assert_eq!(row[2], format!("`{name}`"));
    }
}

#[test]
fn every_guest_has_the_bundle_of_the_page() {
    let page = Page::read();
    let fields = page.table("Bundle", "field");
    let value = |field: &str| page.row("Bundle", "field", &format!("`{field}`"));
    for (guest, manifest) in manifests() {
        assert_eq!(keys(&manifest), first_quoted(&fields), "{guest}");
        assert_eq!(value("version"), format!("`{}`", manifest["version"]), "{guest}");
        assert!(quoted(&value("arch")).contains(&manifest["arch"].to_string()), "{guest}");
        assert_eq!(manifest["ssh"], json!({"vsockPort": SSH_PORT, "user": "builder"}), "{guest}");
        assert_eq!(manifest["nix"], json!({"vsockPort": NIX_PORT}), "{guest}");
        assert_eq!(manifest["agent"], json!({"protocol": VERSION}), "{guest}");
        assert!(!manifest["cmdline"].as_str().unwrap().contains("console="), "{guest}: {}", manifest["cmdline"]);
        let systems: Vec<&Value> = manifest["images"].as_array().unwrap().iter().map(|image| &image["role"]).collect();
        assert_eq!(systems, ["system"], "{guest}");
        assert_eq!(manifest["toplevel"].is_string(), guest == "nixos", "{guest}");
        let features = value("features") + &fields.iter().find(|row| row[0] == "`features`").unwrap()[2];
        for feature in manifest["features"].as_array().unwrap() {
            assert!(quoted(&features).iter().any(|known| feature == known), "{guest}: the page knows no {feature}");
        }
        // The host's own check, with a kernel of the right form.
        let tmp = tempfile::tempdir().unwrap();
        let arm = Arch::Aarch64;
        let mut image = vec![0; 0x40];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let mut erofs = vec![0; 4096];
        erofs[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
        (erofs[1024 + 0x0C], erofs[1024 + 0x24]) = (12, 1);
        let mut arm_manifest = manifest.clone();
        arm_manifest["arch"] = json!("aarch64");
        for (name, content) in [
            ("guest.json", arm_manifest.to_string().as_bytes()),
            (manifest["kernel"].as_str().unwrap(), &image),
            (manifest["initrd"].as_str().unwrap(), &fs::read(built().join("initrd")).unwrap()),
            (manifest["images"][0]["file"].as_str().unwrap(), &erofs),
        ] {
            fs::write(tmp.path().join(name), content).unwrap();
        }
        let opened = Bundle::open(tmp.path(), &[arm]).unwrap_or_else(|error| panic!("{guest}: {error}"));
        assert!((opened.ssh_user.as_str(), opened.images[0].read_only) == ("builder", true), "{guest}: {opened:?}");
    }
    Bundle::open(&built(), &[Arch::X86_64, Arch::Aarch64]).unwrap();
}

#[test]
fn the_base_guest_has_what_the_page_puts_inside() {
    let page = Page::read();
    let inside = |what: &str| page.row("Inside the guest", "what", what);
    let base = &evaluated()["base"];
    let layout = base["layout"].as_object().unwrap();
    let directories = inside("directories the image must have");
    let directories: Vec<&str> = directories.trim_matches('`').split(' ').collect();
    assert!(directories.len() > 10, "{directories:?}");
    for path in directories.into_iter().map(str::to_owned).chain(programs(&page)) {
        let below = format!("{path}/");
        assert!(layout.contains_key(&path) || layout.keys().any(|other| other.starts_with(&below)), "no {path}");
    }
    let text = |path: &str| layout[path]["text"].as_str().unwrap().to_owned();
    for user in quoted(&inside("users")) {
        let file = if user == "nixbld" { "/etc/group" } else { "/etc/passwd" };
        assert!(text(file).lines().any(|line| line.starts_with(&format!("{user}:"))), "no {user} in {file}");
    }
    // No password matches, but the account is not locked.
    assert!(text("/etc/shadow").contains("\nbuilder:*:") && layout["/etc/shadow"]["mode"] == "0600");
    let variables = quoted(&inside("variables of nix-daemon"))[0].clone();
    assert_eq!(text(&variables), "http_proxy=http://proxy.example:3128\n");
    assert_eq!(layout["/etc/resolv.conf"]["link"], "../run/resolv.conf");
    assert_drivers("base", &names(&base["modules"]));
}

#[test]
fn the_nixos_guest_has_what_the_page_puts_inside() {
    let page = Page::read();
    let nixos = &evaluated()["nixos"];
    assert_drivers("nixos", &names(&nixos["initrd"]["modules"]));
    assert!(names(&nixos["initrd"]["modules"]).iter().any(|module| module == "ext4"));
    assert_eq!(nixos["initrd"]["compressor"], "cat", "a payload is appended to the initrd");

    let disks = lines(&nixos["initrd"]["services"]["darwin-vz-disks"]["script"]);
    assert!(disks.contains("/bin/darwin-vz-agent initrd $root"), "{disks}");
    let from_disk = page.row("Inside the guest", "what", "from the data disk");
    for path in quoted(&from_disk).iter().filter(|path| path.starts_with('/')) {
        assert!(disks.contains(&format!(" $root{path}\n")), "nothing is mounted at {path}:\n{disks}");
    }
    let mode = quoted(&from_disk).into_iter().find_map(|word| word.strip_prefix("root:").map(|_| ()));
    assert!(mode.is_some() && from_disk.contains("mode 1775"), "{from_disk}");
    assert!(disks.contains("chmod 1775 $data/store") && disks.contains("chown 0:30000 $data/store"), "{disks}");

    let made = lines(&nixos["tmpfiles"]);
    for program in programs(&page) {
        let (_, name) = program.rsplit_once('/').unwrap();
        let initrd = nixos["initrd"]["programs"].get(name).is_some();
        assert!(initrd || made.contains(&format!("L+ {program} ")), "no {program}");
    }
    let agent = &nixos["services"]["darwin-vz-agent"];
    assert!(agent["serviceConfig"]["ExecStart"].as_str().unwrap().ends_with("/bin/darwin-vz-agent service"));
    assert_eq!(nixos["users"]["builder"], json!({"hashedPassword": "*", "isNormalUser": true, "uid": 1000}));
    assert_eq!(nixos["powerKey"], "poweroff");
    // Shutdown: after all services, before the mounts that it works on are unmounted.
    let clean = &nixos["services"]["darwin-vz-leave-clean"];
    assert_eq!((&clean["wantedBy"], &clean["before"][0]), (&json!(["sysinit.target"]), &json!("sysinit.target")));
    let mounts = clean["unitConfig"]["RequiresMountsFor"].as_str().unwrap();
    for path in quoted(&from_disk).iter().filter(|path| path.starts_with('/')) {
        assert!(mounts.split(' ').any(|mount| mount == path), "{path} may be unmounted before: {mounts}");
    }
    assert!(lines(&clean["preStop"]).contains("mount -o remount,ro /data"), "{clean}");
    // The image contains a database of its paths.
    assert!(disks.contains("cp -R $root/nix/.image/nix-db $data/var/nix/db"), "{disks}");
    assert!(lines(&nixos["database"]).contains("--directory=$PWD nix-db"), "{nixos}");
    // Nothing listens on the network.
    assert_eq!(nixos["resolved"], json!({"LLMNR": false, "MulticastDNS": false}));
    // The agent's sshd is the only one, and its log-ins cannot become root.
    assert!((&nixos["sshd"], &nixos["sudo"]) == (&json!(false), &json!(false)));
    let daemon = &nixos["services"]["nix-daemon"]["environment"];
    assert_eq!(daemon["http_proxy"], "http://proxy.example:3128");
}

/// A file in the form of nix.conf.
fn settings(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn the_nix_of_every_guest_is_configured_as_the_page_says() {
    let page = Page::read();
    let row = page.row("Inside the guest", "what", "`nix.conf`");
    let [feature, limit, free, none] = quoted(&row).try_into().unwrap();
    let script = fs::read_to_string(project("tests/guest/build.sh")).unwrap();
    let debian = script.split("nix.conf\" <<'CONF'\n").nth(1).unwrap().split("\nCONF\n").next().unwrap();
    let evaluated = evaluated();
    let base = evaluated["base"]["layout"]["/etc/nix/nix.conf"]["text"].as_str().unwrap();
    let nixos = evaluated["nixos"]["nixSettings"].as_object().unwrap();
    let nixos = nixos.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
    for (guest, settings) in [("debian", settings(debian)), ("base", settings(base)), ("nixos", nixos)] {
        assert!(settings["experimental-features"].contains(&feature), "{guest}");
        let number = |name: &str| settings.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        assert!(number(&limit) >= 3600 && number(&free) > 0, "{guest}: {settings:?}");
        assert!(!settings.contains_key(&none), "{guest}");
    }
}

#[test]
fn the_debian_guest_has_the_initrd_of_the_page() {
    let row = Page::read().row("Inside the guest", "what", "initrd");
    let bytes = fs::read(built().join("initrd")).unwrap();
    let mut rest = bytes.as_slice();
    let mut entries = BTreeMap::new();
    let mut modules = String::new();
    loop {
        let mut entry = cpio::NewcReader::new(rest).unwrap();
        if entry.entry().is_trailer() {
            break;
        }
        let name = entry.entry().name().to_owned();
        let device = (entry.entry().rdev_major(), entry.entry().rdev_minor());
        entries.insert(format!("/{name}"), (entry.entry().mode(), device));
        if name == "mods/list" {
            std::io::Read::read_to_string(&mut entry, &mut modules).unwrap();
        }
        rest = entry.finish().unwrap();
    }
    for path in quoted(&row).iter().filter(|path| path.starts_with('/') && !path.contains('*')) {
        assert!(entries.contains_key(path), "no {path} in {:?}", entries.keys());
    }
    assert_eq!(entries["/dev/null"], (0o020_666, (1, 3)));
    assert_eq!(entries["/init"].0, 0o100_755);
    let modules: Vec<String> = modules.lines().map(|line| line.trim_end_matches(".ko").to_owned()).collect();
    assert_drivers("debian", &modules);
}

fn programs(page: &Page) -> Vec<String> {
    let row = page.row("Inside the guest", "what", "programs the agent needs");
    let programs: Vec<String> = quoted(&row).into_iter().filter(|word| word.starts_with('/')).collect();
    assert!(programs.len() >= 3, "{row}");
    programs
}

/// A driver for each device that the host adds, by the page.
fn assert_drivers(guest: &str, modules: &[String]) {
    let rows = Page::read().table("What the host adds", "what");
    for (device, driver) in [
        ("command line", "virtio_console"), // console=hvc0
        ("disks", "virtio_blk"),
        ("vsock", "vmw_vsock_virtio_transport"),
        ("network", "virtio_net"),
        ("power button", "evdev"),
        ("shares", "virtiofs"),
    ] {
        assert!(rows.iter().any(|row| row[0] == device), "the host adds no {device}");
        let has = modules.iter().any(|module| module.trim_end_matches('?').replace('-', "_") == driver);
        assert!(has, "{guest} has no {driver} for {device}: {modules:?}");
    }
}

fn names(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn lines(value: &Value) -> String {
    names(value).iter().map(|line| format!("{line}\n")).collect()
}
