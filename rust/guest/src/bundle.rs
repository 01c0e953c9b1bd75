//! The guest bundle: a directory with `guest.json`. This module checks everything that `docs/guest-contract.md`
//! requires of it and that can be checked before a boot, because a kernel that a hypervisor cannot start mostly hangs
//! silently.

mod contents;
mod error;

pub use error::{BundleError, VERSION};

use dvn_host::regular_file::open_through_links;
use dvn_protocol::{NIX_PORT, SSH_PORT};
use dvn_types::Arch;
use serde::Deserialize;
use std::{
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// Longest `guest.json` in bytes. A guest may have built it.
const MAX_MANIFEST: u64 = 1 << 20;

/// Longest command line in bytes. Kernels accept 2,048; this program needs some for what it adds.
const MAX_CMDLINE: usize = 1920;

/// Longest account name, as in Linux.
const MAX_USER: usize = 32;

/// Role of the system image, which is the first.
const SYSTEM: &str = "system";

/// Feature flag of guests that can build on the host's store.
const HOST_STORE: &str = "host-store";

/// A bundle whose files all passed the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Processor architecture of the guest.
    pub arch: Arch,
    /// Absolute path of the kernel.
    pub kernel: PathBuf,
    /// Absolute path of the initial RAM disk, without a boot payload.
    pub initrd: PathBuf,
    /// Kernel command line, without a console.
    pub cmdline: String,
    /// System images in the guest's order.
    pub images: Vec<Image>,
    /// The account that ssh clients use.
    pub ssh_user: String,
    /// Minimum size of the data disk in bytes.
    pub minimum_disk: u64,
    /// Whether the guest can build on the host's store.
    pub host_store: bool,
}

/// A read-only or writable disk image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Absolute path.
    pub path: PathBuf,
    /// Whether the guest gets it read-only.
    pub read_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    arch: Arch,
    kernel: String,
    initrd: String,
    cmdline: String,
    images: Vec<ManifestImage>,
    #[serde(default)]
    toplevel: Option<String>,
    ssh: ManifestSsh,
    nix: Option<ManifestNix>,
    agent: ManifestAgent,
    #[serde(default)]
    minimum_disk: u64,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestImage {
    file: String,
    role: String,
    read_only: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestSsh {
    vsock_port: Option<u32>,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestNix {
    vsock_port: u32,
}

#[derive(Deserialize)]
struct ManifestAgent {
    protocol: u32,
}

/// The version field of any version of `guest.json`.
#[derive(Deserialize)]
struct AnyVersion {
    version: u64,
}

impl Bundle {
    /// Reads and checks the bundle in `dir` for a backend that can boot the architectures `can`.
    pub fn open(dir: &Path, can: &[Arch]) -> Result<Bundle, BundleError> {
        let at = |error| BundleError::Missing { dir: dir.to_owned(), error };
        let mut text = Vec::new();
        let file = open_through_links(&dir.join("guest.json")).map_err(at)?;
        file.take(MAX_MANIFEST + 1).read_to_end(&mut text).map_err(at)?;
        let unfit = |field, why: &str| BundleError::Unfit { dir: dir.to_owned(), field, why: why.to_owned() };
        if text.len() as u64 > MAX_MANIFEST {
            return Err(unfit("length", "it is longer than 1 MiB"));
        }
        let damaged = |error| BundleError::Manifest { dir: dir.to_owned(), error };
        let AnyVersion { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(BundleError::Version { dir: dir.to_owned(), version });
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(damaged)?;
        if !can.contains(&manifest.arch) {
            return Err(BundleError::WrongArch { dir: dir.to_owned(), arch: manifest.arch, can: can.to_owned() });
        }
        if manifest.agent.protocol != dvn_protocol::VERSION {
            return Err(BundleError::Agent { dir: dir.to_owned(), version: manifest.agent.protocol });
        }
        if let Some((field, why)) = manifest.problem() {
            return Err(unfit(field, &why));
        }
        let images = manifest
            .images
            .iter()
            .map(|image| Ok(Image { path: file_of(dir, &image.file)?, read_only: image.read_only }))
            .collect::<Result<_, BundleError>>()?;
        let bundle = Bundle {
            arch: manifest.arch,
            kernel: file_of(dir, &manifest.kernel)?,
            initrd: file_of(dir, &manifest.initrd)?,
            cmdline: manifest.cmdline,
            images,
            ssh_user: manifest.ssh.user,
            minimum_disk: manifest.minimum_disk,
            host_store: manifest.features.iter().any(|feature| feature == HOST_STORE),
        };
        contents::check_initrd(&bundle.initrd)?;
        bundle.images.first().map_or(Ok(()), |system| contents::check_system(&system.path))?;
        contents::check_kernel(&bundle.kernel, bundle.arch)?;
        Ok(bundle)
    }
}

impl Manifest {
    /// The first field that violates the contract, and why.
    fn problem(&self) -> Option<(&'static str, String)> {
        if !is_account(&self.ssh.user) {
            return Some(("ssh user", "it is not an account name".to_owned()));
        }
        let nix = self.nix.as_ref().map(|nix| nix.vsock_port);
        for (field, port, expected) in
            [("ssh vsockPort", self.ssh.vsock_port, SSH_PORT), ("nix vsockPort", nix, NIX_PORT)]
        {
            match port {
                Some(port) if port == expected => {}
                Some(port) => return Some((field, format!("it is {port}, and the host connects to {expected}"))),
                None => return Some((field, format!("it is missing, and the host connects to {expected}"))),
            }
        }
        if self.cmdline.len() > MAX_CMDLINE || self.cmdline.contains(char::is_control) {
            return Some(("cmdline", "it is not a single line of at most 1,920 bytes".to_owned()));
        }
        if self.cmdline.split_whitespace().any(|word| word.starts_with("console=")) {
            return Some(("cmdline", "it names a console, which only the host may do".to_owned()));
        }
        let systems: Vec<usize> = (0..self.images.len()).filter(|at| self.images[*at].role == SYSTEM).collect();
        if systems != [0] {
            return Some(("list of images", "exactly the first one must have the role system".to_owned()));
        }
        let is_path = |path: &String| path.starts_with("/nix/store/") && !path.contains(char::is_control);
        if self.toplevel.as_ref().is_some_and(|path| !is_path(path)) {
            return Some(("toplevel", "it is not a path in a Nix store".to_owned()));
        }
        None
    }
}

/// Whether a name is safe in ssh's configuration, in a URL and in Nix's list of builders.
fn is_account(user: &str) -> bool {
    (1..=MAX_USER).contains(&user.len())
        && !user.starts_with(['-', '.'])
        && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Resolves a file named in the manifest, which must be inside the bundle and not empty.
fn file_of(dir: &Path, name: &str) -> Result<PathBuf, BundleError> {
    let relative = Path::new(name);
    if name.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(BundleError::Escapes { dir: dir.to_owned(), name: name.to_owned() });
    }
    let path = dir.join(relative);
    let problem = match open_through_links(&path).and_then(|f| f.metadata()) {
        Ok(meta) if meta.len() == 0 => io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"),
        Ok(_) => return Ok(path),
        Err(error) => error,
    };
    Err(BundleError::File { path, error: problem })
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "for tests")]
pub mod fixture;
#[cfg(test)]
mod tests;
