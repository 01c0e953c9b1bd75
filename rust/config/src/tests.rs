use super::*;
use dvn_types::Kind;
use proptest::prelude::*;
use std::{path::Path, time::Duration};

const FILE: &str = "/etc/darwin-vz-nix/config.toml";
const HOST: HostFacts = HostFacts { cores: 8, memory: 16 * GIB, arch: None, rosetta: false, nix: false };

fn sources(text: &str) -> Result<Sources, ConfigError> {
    Ok(Sources {
        flags: Vec::new(),
        env: Vec::new(),
        file: File::parse(Path::new(FILE), text, Some(Path::new("/home/ada")))?,
        machine: None,
        cwd: "/work".into(),
        home: Some("/home/ada".into()),
        default_state_dir: "/var/lib/darwin-vz-nix".into(),
    })
}

fn settings(text: &str) -> Result<Settings, Report> {
    Ok(Config::load(sources(text)?)?.settings(&HOST)?)
}

fn builder(text: &str) -> MachineConfig {
    settings(text).unwrap().machines.values().next().unwrap().clone()
}

fn refused(text: &str) -> Report {
    settings(text).unwrap_err()
}

#[test]
fn nothing_given_makes_one_machine_of_half_the_host() {
    let settings = settings("").unwrap();
    assert_eq!(settings.state_dir, Path::new("/var/lib/darwin-vz-nix"));
    assert_eq!(settings.machines.keys().map(MachineName::as_str).collect::<Vec<_>>(), ["builder"]);
    let builder = builder("");
    assert_eq!(builder.lifecycle.idle_timeout, Some(Duration::from_secs(180 * 60)));
    let (hardware, builder) = (builder.hardware, &builder.builder);
    assert_eq!((hardware.cores, hardware.memory, builder.disk_size), (4, 8 * GIB, 100 * GIB));
    assert_eq!(builder.listen.to_string(), "127.0.0.1:31122");
    assert_eq!((hardware.backend, hardware.accelerator), (None, None));
    assert_eq!((&builder.bundle, builder.rosetta, builder.share_store), (&None, false, false));
    let small = HostFacts { cores: 1, memory: 3 * GIB, ..HOST };
    let config = Config::load(sources("").unwrap()).unwrap().settings(&small).unwrap();
    let hardware = &config.machines[&"builder".parse().unwrap()].hardware;
    assert_eq!((hardware.cores, hardware.memory), (1, 1536 * MIB));
    let with_nix = HostFacts { nix: true, ..HOST };
    let config = Config::load(sources("").unwrap()).unwrap().settings(&with_nix).unwrap();
    assert!(config.machines.values().all(|machine| machine.builder.share_store), "a host with Nix shares its store");
}

#[test]
fn the_nearer_source_wins_for_each_key_alone() {
    let text = "cores = 1\nmemory = \"1G\"\ndisk-size = \"10G\"\nstop-grace = 7\n[machines.builder]\ncores = 2\nmemory = \"2G\"\ndisk-size = \"20G\"\n";
    // The cores from a variable and a flag, which override the machine's table.
    for (env, flag, cores) in [(None, None, 2), (Some("3"), None, 3), (Some("3"), Some("4"), 4), (None, Some("4"), 4)] {
        let mut sources = sources(text).unwrap();
        sources.env = env.map(|cores| ("DARWIN_VZ_NIX_CORES".to_owned(), cores.to_owned())).into_iter().collect();
        sources.flags = flag.map(|cores: &str| (Key::Cores, cores.to_owned())).into_iter().collect();
        let config = Config::load(sources).unwrap();
        let complete = config.complete(&HOST).unwrap().into_values().next().unwrap();
        assert_eq!(complete.cores.value.0, cores);
        assert_eq!(complete.memory.value, Size(2 * GIB), "from the machine's table");
        assert_eq!(complete.memory.origin.to_string(), format!("{FILE}:7"));
        assert_eq!(complete.stop_grace.value.0, Duration::from_secs(7), "from the top of the file");
        assert_eq!(complete.boot_timeout.origin, Origin::Default);
    }
}

#[test]
fn every_key_can_be_set_from_every_source() {
    for key in Key::ALL {
        let (text, shown) = match key {
            Key::StateDir | Key::StoreDir | Key::StoreDaemon | Key::Bundle => ("/somewhere/./else", "/somewhere/else"),
            Key::LogLevel => ("dvn=debug,warn", "dvn=debug,warn"),
            Key::Cores => ("3", "3"),
            Key::Memory | Key::DiskSize => ("5.5G", "5632M"),
            Key::IdleTimeout => ("7", "7m"),
            Key::BootTimeout | Key::StopGrace | Key::HangTimeout => ("90", "1m 30s"),
            Key::Listen | Key::ApiListen => ("[::1]:7", "[::1]:7"),
            Key::Ephemeral | Key::Rosetta | Key::NestedVirtualization | Key::ShareStore => ("true", "true"),
            Key::Backend => ("qemu", "qemu"),
            Key::Recipe => ("/nix/store/a.drv", "/nix/store/a.drv"),
            Key::Nix => ("/nix", "/nix"),
            Key::Accelerator => ("tcg", "tcg"),
        };
        let able = HostFacts { rosetta: true, ..HOST };
        let file = sources(&format!("{key} = {text:?}")).unwrap();
        let mut flag = sources("").unwrap();
        flag.flags.push((key, text.to_owned()));
        let mut env = sources("").unwrap();
        env.env.push((key.env(), text.to_owned()));
        for (sources, origin) in [(file, format!("{FILE}:1")), (flag, format!("--{key}")), (env, key.env())] {
            let complete = Config::load(sources).unwrap().complete(&able).unwrap().into_values().next().unwrap();
            let row = complete.rows().into_iter().find(|row| row.0 == key).unwrap();
            assert_eq!((row.1.as_str(), row.2.to_string()), (shown, origin));
        }
    }
}

#[test]
fn what_is_offered_can_be_given() {
    let base = Base { dir: "/".into(), home: None };
    let read = |key: Key, text: &str| Layer::default().set(key, &Raw::Text(text.to_owned()), Origin::Default, &base);
    for key in Key::ALL {
        for text in key.choices().iter().copied().chain(key.bare_flag()) {
            assert_eq!(read(key, text), Ok(()), "{key} = {text}");
        }
        assert!(
            !key.about().ends_with('.') && !key.help().ends_with('.'),
            "{key}: a page and the help end it themselves"
        );
    }
    assert_eq!((Key::ShareStore.bare_flag(), Key::Cores.bare_flag()), (Some("true"), None));
    assert_eq!(Key::Accelerator.choices(), ["auto", "kvm", "tcg"]);
}

#[test]
fn the_api_answers_on_loopback_or_not_at_all() {
    let listen = |text: &str| settings(text).map(|settings| settings.api_listen);
    assert_eq!(listen("").unwrap(), None);
    assert_eq!(listen("api-listen = \"none\"").unwrap(), None);
    assert_eq!(listen("api-listen = \"127.0.0.1:7\"").unwrap(), Some(([127, 0, 0, 1], 7).into()));
    for address in ["0.0.0.0:7", "192.168.1.2:7", "[::]:7", "[fe80::1]:7"] {
        let report = listen(&format!("api-listen = {address:?}")).unwrap_err();
        assert!(report.message.contains("would let other computers in"), "{report}");
        assert_eq!(report.hints, ["give 127.0.0.1:7 or [::1]:7"]);
    }
    let report = listen("api-listen = \"127.0.0.1:31122\"").unwrap_err();
    assert!(report.message.ends_with("the machine builder listens there for ssh clients"), "{report}");
    let report = listen("[machines.a]\napi-listen = \"127.0.0.1:7\"").unwrap_err();
    assert!(report.message.contains("api-listen is not a setting of a machine"), "{report}");
}

#[test]
fn flags_and_variables_are_for_the_chosen_machine() {
    let text = "[machines.a]\n[machines.b]\nlisten = \"127.0.0.1:2\"\n";
    let mut two = sources(text).unwrap();
    two.machine = Some("b".parse().unwrap());
    two.flags = vec![(Key::Cores, "1".to_owned())];
    let settings = Config::load(two.clone()).unwrap().settings(&HOST).unwrap();
    assert_eq!(settings.machines.values().map(|machine| machine.hardware.cores).collect::<Vec<_>>(), [4, 1]);

    two.machine = None;
    let report = Report::from(Config::load(two.clone()).unwrap_err());
    assert_eq!(report.message, "there are several machines (a, b), and it is not clear which one is meant");
    two.flags.clear();
    assert!(
        Config::load(two.clone()).unwrap().chosen().is_err(),
        "without a flag it matters only to commands about one"
    );

    two.machine = Some("c".parse().unwrap());
    let report = Report::from(Config::load(two).unwrap_err());
    assert_eq!((report.kind, report.message.as_str()), (Kind::NotFound, "there is no machine c; there are: a, b"));
    let one = Config::load(sources("[machines.ci]").unwrap()).unwrap();
    assert_eq!(one.chosen().unwrap().as_str(), "ci");
}

#[test]
fn sizes() {
    let read = |text: &str| Size::read(&Raw::Text(text.to_owned()), &Base { dir: "/".into(), home: None });
    for (text, bytes) in [
        ("512", 512 * MIB),
        ("8G", 8 * GIB),
        ("8g", 8 * GIB),
        (" 8 GiB ", 8 * GIB),
        ("1.5G", 1536 * MIB),
        ("2T", 2048 * GIB),
        ("8GB", 8_000_000_000),
        ("4096b", 4096),
        ("0", 0),
    ] {
        assert_eq!(read(text).unwrap().0, bytes, "{text}");
    }
    for text in ["", "G", "8X", "-1", "1.G", ".5G", "1..5G", "99999999999T", "1e3", "８G", "1.0000000001G"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn idle_timeouts_and_limits() {
    let lifecycle = |text: &str| builder(text).lifecycle;
    let idle = |text: &str| lifecycle(&format!("idle-timeout = {text}")).idle_timeout.map(|time| time.as_secs());
    assert_eq!(idle("180"), Some(10_800));
    assert_eq!(idle("\"30s\""), Some(30));
    assert_eq!(idle("\"2h\""), Some(7_200));
    assert_eq!((idle("0"), idle("\"0s\"")), (None, None));
    assert_eq!(lifecycle("boot-timeout = 9").boot_timeout, Duration::from_secs(9));
    let hang = |text: &str| lifecycle(&format!("hang-timeout = {text}")).hang_timeout.map(|time| time.as_secs());
    assert_eq!((hang("4"), hang("\"2m\"")), (Some(4), Some(120)));
    assert_eq!((hang("0"), hang("\"0s\"")), (None, None));
    assert_eq!(lifecycle("boot-timeout = \"2m\"").boot_timeout, Duration::from_secs(120));
    assert!(settings("idle-timeout = 99999999999999").is_err());
}

#[test]
fn paths_start_from_where_they_were_written() {
    let bundle = |text: &str| builder(text).builder.bundle.clone().unwrap();
    assert_eq!(bundle("bundle = \"guest\""), Path::new("/etc/darwin-vz-nix/guest"));
    assert_eq!(bundle("bundle = \"~/guest\""), Path::new("/home/ada/guest"));
    let mut given = sources("").unwrap();
    given.flags.push((Key::Bundle, "./guest".to_owned()));
    given.flags.push((Key::StateDir, "state".to_owned()));
    let settings = Config::load(given).unwrap().settings(&HOST).unwrap();
    assert_eq!(settings.machines.values().next().unwrap().builder.bundle.as_deref(), Some(Path::new("/work/guest")));
    assert_eq!(settings.state_dir, Path::new("/work/state"));
}

#[test]
fn unknown_keys_are_reported_with_their_line_and_the_nearest_name() {
    for (text, message, hint) in [
        ("cores = 2\nmemroy = 3\n", ":2: there is no setting \"memroy\"", "did you mean memory?"),
        ("disk_size = 3\n", ":1: there is no setting \"disk_size\"", "did you mean disk-size?"),
        ("\n\n[machine.builder]\n", ":3: there is no setting \"machine\"", "did you mean machines?"),
        ("[machines.builder]\nidle = 3\nidle-timeuot=4", ":2: there is no setting \"idle\"", ""),
        (
            "[machines.builder]\nidle-timeuot = 4",
            ":2: there is no setting \"idle-timeuot\"",
            "did you mean idle-timeout?",
        ),
        ("zzz = 1", ":1: there is no setting \"zzz\"", "the settings are state-dir, log-level, api-listen"),
    ] {
        let report = refused(text);
        assert_eq!((report.kind, report.message), (Kind::Config, format!("{FILE}{message}")));
        assert!(report.hints.concat().starts_with(hint), "{:?}", report.hints);
    }
}

#[test]
fn unknown_variables_are_reported_too() {
    let with = |name: &str| {
        let mut sources = sources("").unwrap();
        sources.env.push((name.to_owned(), "1".to_owned()));
        Config::load(sources).map_err(Report::from)
    };
    let report = with("DARWIN_VZ_NIX_CROES").unwrap_err();
    assert_eq!(
        report.message,
        "the environment variable DARWIN_VZ_NIX_CROES is set, but there is no setting of that name"
    );
    assert_eq!(report.hints, ["did you mean DARWIN_VZ_NIX_CORES?"]);
    assert_eq!(with("DARWIN_VZ_NIX_QQQQQQ").unwrap_err().hints, ["unset DARWIN_VZ_NIX_QQQQQQ"]);
    assert!(with("DARWIN_VZ_NIX_MACHINE").is_ok(), "the CLI's own");
    assert!(with("PATH").is_ok(), "none of ours");
}

#[test]
fn unreadable_values_are_reported_with_their_line_and_the_valid_values() {
    for (text, message, hint) in [
        ("\ncores = \"many\"", ":2: cores cannot be \"many\"", "give a whole number, such as 4"),
        ("cores = -1", ":1: cores cannot be -1", "give a whole number, such as 4"),
        (
            "memory = 1.5",
            ":1: memory cannot be a fraction without quotes",
            "give a size such as 8G or 512M, or a number of MiB",
        ),
        ("rosetta = 2", ":1: rosetta cannot be 2", "give true or false"),
        ("listen = \"31122\"", ":1: listen cannot be \"31122\"", "give an address and a port, such as 127.0.0.1:31122"),
        ("bundle = []", ":1: bundle cannot be a list", "give a path"),
        ("backend = \"xen\"", ":1: backend cannot be \"xen\"", "give auto, qemu or vz"),
        ("backend = true", ":1: backend cannot be true", "give auto, qemu or vz"),
        ("accelerator = \"hax\"", ":1: accelerator cannot be \"hax\"", "give auto, kvm or tcg"),
        ("log-level = \"loud\"", ":1: log-level cannot be \"loud\"", "give error, warn, info, debug or trace"),
        (
            "[machines.builder]\nstate-dir = \"/x\"",
            ":2: state-dir is not a setting of a machine: it applies to the whole daemon",
            "move state-dir to the top of the file, above the first [table]",
        ),
    ] {
        let report = refused(text);
        assert_eq!((report.message, report.hints), (format!("{FILE}{message}"), vec![hint.to_owned()]));
    }
    assert!(refused("cores = 1\ncores = 2").message.starts_with(&format!("{FILE}:2: this is not TOML: ")));
    assert!(refused("[machines.Builder]").message.starts_with(&format!("{FILE}:1: \"Builder\" is not a machine name")));
    assert_eq!(refused("machines = 3").message, format!("{FILE}:1: machines.NAME is a table: write [machines.NAME]"));
    assert_eq!(refused("[machines]\na = 1").message, format!("{FILE}:2: machines.a is a table: write [machines.a]"));
}

#[test]
fn values_are_checked_against_the_host() {
    for (text, message) in [
        ("cores = 0", "cores = 0: a guest needs a processor"),
        ("cores = 9", "cores = 9: this computer has 8"),
        ("memory = 255", "memory = 255M: a guest needs 256M at least"),
        ("memory = \"17G\"", "memory = 17G: this computer has 16G"),
        ("disk-size = 1023", "disk-size = 1023M: less than 1G holds no build"),
        ("disk-size = \"65T\"", "disk-size = 65T: more than 64T cannot be meant"),
        ("listen = \"0.0.0.0:22\"", "listen = 0.0.0.0:22: that would let other computers in"),
        ("rosetta = true", "rosetta = true: Rosetta exists only on Apple silicon with macOS"),
        ("boot-timeout = 0", "boot-timeout = 0s: no boot takes no time"),
    ] {
        let report = refused(text);
        assert_eq!((report.kind, report.message), (Kind::Config, format!("{FILE}:1: {message}")));
        assert!(!report.hints.is_empty(), "{text}");
    }
    for text in [
        "cores = 8",
        "memory = \"16G\"",
        "memory = 256",
        "disk-size = \"64T\"",
        "disk-size = 1024",
        "listen = \"[::1]:1\"",
    ] {
        assert!(settings(text).is_ok(), "{text}");
    }
}

#[test]
fn two_machines_cannot_share_an_address() {
    let report = refused("[machines.a]\n[machines.b]\n");
    assert_eq!(report.message, "the machines a and b both listen on 127.0.0.1:31122 (default)");
    assert_eq!(report.hints, ["set another listen in [machines.b], such as 127.0.0.1:31123"]);
    assert!(settings("listen = \"127.0.0.1:0\"\n[machines.a]\n[machines.b]").is_ok());
    assert!(settings("[machines.a]\n[machines.b]\nlisten = \"[::1]:31122\"").is_ok());
}

#[test]
fn a_start_is_checked_like_the_settings() {
    let request = dvn_types::Sizes { cores: Some(9), ..Default::default() };
    assert_eq!(check_start(&request, &HOST).unwrap_err().message, "--cores = 9: this computer has 8");
    let request = dvn_types::Sizes { memory: Some(MIB), ..Default::default() };
    assert_eq!(check_start(&request, &HOST).unwrap_err().message, "--memory = 1M: a guest needs 256M at least");
    let request = dvn_types::Sizes { disk_size: Some(MIB), ..Default::default() };
    assert_eq!(check_start(&request, &HOST).unwrap_err().message, "--disk-size = 1M: less than 1G holds no build");
    assert!(check_start(&dvn_types::Sizes::default(), &HOST).is_ok());
}

#[test]
fn a_missing_file_is_empty_unless_it_was_asked_for() {
    let path = Path::new("/nonexistent/config.toml");
    assert_eq!(File::read(path, false, None).unwrap(), File::default());
    let report = Report::from(File::read(path, true, None).unwrap_err());
    assert!(report.message.starts_with("the configuration file /nonexistent/config.toml cannot be read: "), "{report}");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*") {
        let _ = settings(&text);
    }

    #[test]
    fn no_value_makes_the_reader_panic(key in 0..Key::ALL.len(), value in "\"?[-+0-9.eE_ tfGgMmiIbBsh:\\[\\]~/'\"]{0,24}", table: bool) {
        let key = Key::ALL[key];
        let text = if table { format!("[machines.a]\n{key} = {value}") } else { format!("{key} = {value}") };
        let _ = settings(&text);
        let mut sources = sources("").unwrap();
        sources.flags.push((key, value));
        let _ = Config::load(sources).map(|config| config.settings(&HOST));
    }

    #[test]
    fn a_size_reads_back_as_shown(bytes: u64) {
        let base = Base { dir: "/".into(), home: None };
        prop_assert_eq!(Size::read(&Raw::Text(Size(bytes).to_string()), &base), Ok(Size(bytes)));
    }
}
