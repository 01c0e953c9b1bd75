//! The flags of `tart run` as a request to the API. What cannot be had is an error that says so.

use super::grammar::Run;
use crate::devices::AUTOMOUNT;
use dvn_types::{
    Kind, Report,
    wire::{Exposed, ExtraDisk, RunRequest, SharedDirectory},
};
use std::path::Path;

/// What the flags ask for. Paths are taken from `cwd` on.
pub fn request(run: &Run, cwd: &Path) -> Result<RunRequest, Report> {
    refuse_absent(run)?;
    let disks = run.disk.iter().map(|spec| disk(spec, cwd)).collect::<Result<_, _>>()?;
    let shares = run.dir.iter().map(|spec| share(spec, cwd)).collect::<Result<_, _>>()?;
    let expose = run.net_softnet_expose.as_deref().map(ports).transpose()?.unwrap_or_default();
    Ok(RunRequest { no_graphics: run.no_graphics && !run.graphics, disks, shares, expose })
}

fn refuse_absent(run: &Run) -> Result<(), Report> {
    let absent = [
        (
            run.serial_path.is_some(),
            "--serial-path",
            "the console is printed, and `darwin-vz-nix logs --console` has it",
        ),
        (run.recovery, "--recovery", "it is for macOS guests, which do not run yet"),
        (run.vnc, "--vnc", "`darwin-vz-nix screenshot` shows the screen"),
        (run.vnc_experimental, "--vnc-experimental", "`darwin-vz-nix screenshot` shows the screen"),
        (run.root_disk_opts.is_some(), "--root-disk-opts", "leave it out: the disk is synchronised as the guest asks"),
        (run.rosetta.is_some(), "--rosetta", "builders have Rosetta: `darwin-vz-nix config`"),
        (!run.net_bridged.is_empty(), "--net-bridged", "leave it out: the machine has a network by NAT"),
        (run.net_softnet, "--net-softnet", "leave it out: the machine has a network by NAT"),
        (run.net_softnet_allow.is_some(), "--net-softnet-allow", "leave it out: the machine has a network by NAT"),
        (run.net_softnet_block.is_some(), "--net-softnet-block", "leave it out: the machine has a network by NAT"),
        (run.net_host, "--net-host", "leave it out: the machine has a network by NAT"),
        (run.nested, "--nested", "builders have it: nested-virtualization in `darwin-vz-nix config`"),
    ];
    match absent.iter().find(|(given, ..)| *given) {
        Some((_, flag, hint)) => Err(Report::new(Kind::Config, format!("{flag} is not supported yet")).hint(*hint)),
        None => Ok(()),
    }
}

/// `PATH` or `PATH:OPTIONS`; the last colon separates them only if known options follow.
fn disk(spec: &str, cwd: &Path) -> Result<ExtraDisk, Report> {
    if spec.contains("://") {
        return Err(Report::new(Kind::Config, format!("the disk {spec} is not supported: it is on the network"))
            .hint("attach a file of this computer"));
    }
    let (path, options) = split_options(spec, &["ro", "sync=", "caching="]);
    let read_only = options.contains(&"ro");
    if let Some(option) = options.iter().find(|option| **option != "ro" && !DEFAULTS.contains(option)) {
        return Err(Report::new(Kind::Config, format!("the option {option} of the disk {path} is not supported yet"))
            .hint("leave it out, or give only ro"));
    }
    Ok(ExtraDisk { path: absolute(path, cwd), read_only })
}

/// Options that say what is so in any case.
const DEFAULTS: [&str; 2] = ["sync=full", "caching=automatic"];

/// `[NAME:]PATH[:ro,tag=TAG]`.
fn share(spec: &str, cwd: &Path) -> Result<SharedDirectory, Report> {
    if spec.starts_with("http://") || spec.starts_with("https://") {
        return Err(Report::new(Kind::Config, format!("the directory {spec} is not supported: it is on the network"))
            .hint("download and unpack it, and share that directory"));
    }
    let (rest, options) = split_options(spec, &["ro", "tag="]);
    let tag = options.iter().find_map(|option| option.strip_prefix("tag="));
    let (name, path) = match rest.split_once(':') {
        // A path has a slash or a dot before any colon.
        Some((name, path)) if !name.contains(['/', '.', '~']) => (Some(name), path),
        _ => (None, rest),
    };
    // Each directory is a share of its own here, so the name can be its tag.
    let tag = tag.or(name).unwrap_or(AUTOMOUNT).to_owned();
    Ok(SharedDirectory { tag, path: absolute(path, cwd), read_only: options.contains(&"ro") })
}

fn split_options<'a>(spec: &'a str, known: &[&str]) -> (&'a str, Vec<&'a str>) {
    let is_known =
        |option: &str| known.iter().any(|known| option == *known || known.ends_with('=') && option.starts_with(known));
    match spec.rsplit_once(':') {
        Some((rest, options)) if options.split(',').all(is_known) => (rest, options.split(',').collect()),
        _ => (spec, vec![]),
    }
}

/// `EXTERNAL:INTERNAL, …`.
fn ports(spec: &str) -> Result<Vec<Exposed>, Report> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let pair = |pair: &str| {
        let (host, guest) = pair.split_once(':')?;
        Some(Exposed { host: port(host)?, guest: port(guest)? })
    };
    spec.split(',').map(pair).collect::<Option<_>>().ok_or_else(|| {
        Report::new(Kind::Config, format!("{spec:?} is no list of ports"))
            .hint("write EXTERNAL:INTERNAL, such as 2222:22, and commas between several")
    })
}

fn absolute(path: &str, cwd: &Path) -> String {
    cwd.join(path).display().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::tart::grammar::{Tart, Verb};
    use clap::Parser;

    fn asked(flags: &[&str]) -> Result<RunRequest, Report> {
        let Verb::Run(run) = Tart::parse_from(["tart", "run", "vm"].iter().chain(flags)).verb else { panic!() };
        request(&run, Path::new("/here"))
    }

    #[test]
    fn disks_directories_and_ports_are_asked_for_as_tart_writes_them() {
        let request = asked(&[
            "--no-graphics",
            "--disk=a.iso:ro",
            "--disk=/b:c.img",
            "--disk=d.img:sync=full,ro",
            "--dir=src:~/project:ro",
            "--dir=/shared",
            "--dir=./x:tag=build",
            "--net-softnet-expose=2222:22,8080:80",
        ])
        .unwrap();
        assert!(request.no_graphics);
        let disks: Vec<_> = request.disks.iter().map(|disk| (disk.path.as_str(), disk.read_only)).collect();
        assert_eq!(disks, [("/here/a.iso", true), ("/b:c.img", false), ("/here/d.img", true)]);
        let shares: Vec<_> =
            request.shares.iter().map(|it| (it.tag.as_str(), it.path.as_str(), it.read_only)).collect();
        assert_eq!(
            shares,
            [("src", "/here/~/project", true), (AUTOMOUNT, "/shared", false), ("build", "/here/./x", false)]
        );
        assert_eq!(request.expose, [Exposed { host: 2222, guest: 22 }, Exposed { host: 8080, guest: 80 }]);
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_flag() {
        for (flags, says) in [
            (&["--recovery"][..], "--recovery"),
            (&["--net-bridged=en0"], "--net-bridged"),
            (&["--disk=nbd://host/x"], "nbd://host/x"),
            (&["--disk=x:sync=none"], "sync=none"),
            (&["--dir=https://host/x.tar.gz"], "https://host/x.tar.gz"),
            (&["--net-softnet-expose=80"], "no list of ports"),
        ] {
            let refused = asked(flags).unwrap_err();
            assert!(refused.message.contains(says) && !refused.hints.is_empty(), "{refused}");
        }
    }
}
