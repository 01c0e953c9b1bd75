//! Makes a builder's guest ready: on the host before the boot, and by waiting for the guest after it.
//!
//! ```text
//!  prepare:      generation ▸ bundle ▸ keys ▸ data disk ▸ initrd + payload ▸ MachineSpec
//!  await_ready:  agent's READY with this boot's token ▸ sshd's banner ▸ Ready
//! ```
//!
//! The connection with the banner is kept for a moment for the client whose connection caused the boot. So SSH itself confirms
//! that the guest is ready, at no cost to the client.

mod preparation;

use super::{
    agent::Agent,
    boots::{Boots, Tried},
    sharing::Sharing,
    symptoms,
};
use dvn_config::{BuilderConfig, HardwareConfig};
use dvn_host::machine_dir::MachineDir;
use dvn_hypervisor::{Capabilities, Guest, GuestStream, Requirements, spec::MachineSpec};
use dvn_lifecycle::{BootEvent, GuestProvider, Ready};
use dvn_protocol::{HostPorts, SSH_PORT, messages::DataDisk};
use dvn_types::{Kind, MachineName, Report, Sizes, TimelinePhase, ms};
use futures_util::future::BoxFuture;
use preparation::Preparation;
use std::{
    io::Cursor,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    task::spawn_blocking,
    time::{Instant, timeout},
};

/// How long sshd may take to send its banner after the agent has reported it ready.
const BANNER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the confirmed connection is kept for a client.
const WARM_FOR: Duration = Duration::from_secs(10);

/// Longest first line of an SSH server, in bytes (RFC 4253, section 4.2).
const LONGEST_BANNER: u64 = 255;

/// How long a boot waits for the preparation of an earlier, cancelled boot.
const AFTER_ANOTHER: Duration = Duration::from_secs(10);

/// Provides the guest of a builder machine.
pub struct BuilderGuest {
    name: MachineName,
    requirements: Requirements,
    config: Arc<BuilderConfig>,
    dir: MachineDir,
    capabilities: Capabilities,
    source: Arc<dyn BootSource>,
    sharing: Option<Arc<Sharing>>,
    /// The token of the present boot.
    token: Mutex<String>,
    /// The host has created its data disk again, so the guest finds an empty one.
    rebuilt: AtomicBool,
    warm: WarmConnection,
    boots: Boots,
    /// Locked while files are prepared, also by the preparation of a cancelled boot.
    preparing: Arc<tokio::sync::Mutex<()>>,
}

/// An SSH connection whose banner has arrived and that waits for a client. Cheap to clone.
#[derive(Clone, Default)]
pub struct WarmConnection(Arc<Mutex<Option<GuestStream>>>);

impl WarmConnection {
    /// The connection, if there is one.
    pub fn take(&self) -> Option<GuestStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, stream: GuestStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        let slot = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(WARM_FOR).await;
            if let Some(slot) = slot.upgrade() {
                WarmConnection(slot).take();
            }
        });
    }
}

/// Chooses the bundle that boots.
pub trait BootSource: Send + Sync + 'static {
    /// The bundle of the boot that begins now; `None` if none is configured.
    fn bundle(&self) -> Option<PathBuf>;
}

impl BuilderGuest {
    /// For the machine of this name and directory, on a hypervisor with these capabilities; with the host's store, or without.
    pub fn new(
        name: MachineName,
        hardware: &HardwareConfig,
        config: Arc<BuilderConfig>,
        dir: MachineDir,
        capabilities: Capabilities,
        source: Arc<dyn BootSource>,
        sharing: Option<Arc<Sharing>>,
    ) -> BuilderGuest {
        let (token, rebuilt, warm, preparing) = Default::default();
        let (boots, requirements) = (Boots::of(&dir), hardware.requirements());
        BuilderGuest {
            name,
            requirements,
            config,
            dir,
            capabilities,
            source,
            sharing,
            token,
            rebuilt,
            warm,
            boots,
            preparing,
        }
    }

    /// The connection that confirmed the last boot.
    pub fn warm(&self) -> WarmConnection {
        self.warm.clone()
    }

    /// The records of its boots.
    pub fn boots(&self) -> Boots {
        self.boots.clone()
    }

    async fn prepare(&self, sizes: Sizes) -> Result<MachineSpec, Report> {
        self.warm.take();
        let token = format!("{:032x}", rand::random::<u128>());
        token.clone_into(&mut self.token.lock().unwrap_or_else(PoisonError::into_inner));
        let bundle = self.source.bundle();
        let requirements = Requirements {
            cores: sizes.cores.unwrap_or(self.requirements.cores),
            memory: sizes.memory.unwrap_or(self.requirements.memory),
            ..self.requirements
        };
        let boots = self.boots.clone();
        let tried = Tried { bundle: bundle.clone(), cores: requirements.cores, memory: requirements.memory };
        // Before the rest, which may hang at a file of the bundle: then the boot is on record.
        spawn_blocking(move || boots.begin(tried)).await.map_err(lost)?;
        let alone = timeout(AFTER_ANOTHER, Arc::clone(&self.preparing).lock_owned());
        let alone = alone.await.map_err(|_| hangs(bundle.as_deref()))?;
        let preparation = Preparation {
            name: self.name.clone(),
            requirements,
            bundle,
            disk_size: sizes.disk_size,
            config: Arc::clone(&self.config),
            dir: self.dir.clone(),
            capabilities: self.capabilities.clone(),
            sharing: self.sharing.clone(),
            token,
        };
        let work = spawn_blocking(move || {
            let _alone = alone;
            preparation.run()
        });
        let (spec, rebuilt) = work.await.map_err(lost)??;
        self.rebuilt.store(rebuilt, Ordering::Relaxed);
        Ok(spec)
    }

    async fn await_ready(&self, guest: Arc<dyn Guest>) -> Result<Ready, Report> {
        let origin = Instant::now();
        // An older guest connects to the first port numbers.
        let listener = guest.listen(HostPorts::HIGH.agent)?.and(guest.listen(HostPorts::FIRST.agent)?);
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (agent, readiness) = Agent::await_ready(listener, token.clone()).await?;
        let received = ms(origin.elapsed());
        if let Some(sharing) = &self.sharing {
            sharing.begin(&guest, token, &readiness)?;
        }
        // The host does not know when the guest's clock began. It equates the sending of READY, on the guest's clock, with its
        // arrival on the host's.
        let sent = readiness.phases.last().map_or(0, |phase| phase.at_ms);
        let on_our_clock = |at_ms: u64| (at_ms + received).saturating_sub(sent);
        let mut phases: Vec<_> = readiness
            .phases
            .iter()
            .map(|phase| TimelinePhase { name: format!("guest: {}", phase.name), at_ms: on_our_clock(phase.at_ms) })
            .collect();
        phases.push(TimelinePhase { name: "ready".into(), at_ms: received });

        let stream = guest.connect(SSH_PORT).await?;
        self.warm.put(greeted(stream).await?);
        phases.push(TimelinePhase { name: "ssh banner".into(), at_ms: ms(origin.elapsed()) });
        let data_disk = match readiness.data_disk {
            DataDisk::Formatted if self.rebuilt.load(Ordering::Relaxed) => "rebuilt",
            DataDisk::Formatted => "formatted",
            DataDisk::Kept => "kept",
            DataDisk::Rebuilt => "rebuilt",
        };
        if readiness.data_disk == DataDisk::Rebuilt {
            tracing::warn!(machine = %self.name, "the data disk was not left clean, and the guest has made it anew");
        }
        Ok(Ready { phases, kernel: readiness.kernel, data_disk: data_disk.to_owned(), agent: Some(Arc::new(agent)) })
    }

    async fn explain(&self, mut cause: Report) -> Report {
        let (console, boot) = (self.dir.console_log(), self.boots.current());
        if let Ok(summary) = spawn_blocking(move || symptoms::summary(&console)).await {
            cause.message = format!("{}; {summary}", cause.message);
        }
        let cause = cause.hint("see the whole console: darwin-vz-nix logs --console");
        self.boots.explained(boot, &cause);
        cause
    }
}

fn lost(error: tokio::task::JoinError) -> Report {
    Report::new(Kind::Internal, format!("the preparation of a boot was lost: {error}"))
}

/// The error of a boot that cannot be prepared, because an earlier preparation hangs.
fn hangs(bundle: Option<&Path>) -> Report {
    let bundle = bundle.map_or_else(|| "its files".to_owned(), |dir| dir.display().to_string());
    Report::new(
        Kind::Host,
        format!("the preparation of an earlier boot still waits for a file, most likely of {bundle}: its volume does not answer"),
    )
    .hint("see that the volume answers, or use a bundle on another one; then start the daemon anew: `darwin-vz-nix stop --daemon`")
}

impl GuestProvider for BuilderGuest {
    fn prepare(&self, sizes: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>> {
        Box::pin(BuilderGuest::prepare(self, sizes))
    }
    fn await_ready(&self, guest: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>> {
        Box::pin(BuilderGuest::await_ready(self, guest))
    }
    fn explain(&self, cause: Report) -> BoxFuture<'_, Report> {
        Box::pin(BuilderGuest::explain(self, cause))
    }
    fn on_boot_event(&self, event: BootEvent) {
        match event {
            BootEvent::Ready => self.boots.ready(),
            BootEvent::Failed(why) => self.boots.failed(&why),
            BootEvent::Ended(exit) => self.boots.ended(exit.to_string()),
        }
    }
}

/// Reads sshd's banner, and returns a stream that begins with it again.
async fn greeted(stream: GuestStream) -> Result<GuestStream, Report> {
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let mut banner = Vec::new();
    let read = timeout(BANNER_TIMEOUT, (&mut reader).take(LONGEST_BANNER).read_until(b'\n', &mut banner)).await;
    if !matches!(read, Ok(Ok(_))) || !banner.starts_with(b"SSH-2.0-") {
        let message = "the guest said that it is ready, but no SSH server greets on its vsock port";
        return Err(Report::new(Kind::Boot, message));
    }
    Ok(Box::new(tokio::io::join(Cursor::new(banner).chain(reader), writer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn the_banner_is_read_and_still_there_for_the_client() {
        let (mut sshd, ours) = tokio::io::duplex(1024);
        sshd.write_all(b"SSH-2.0-x\r\nkex").await.unwrap();
        let mut stream = greeted(Box::new(ours)).await.unwrap();
        stream.write_all(b"SSH-2.0-client").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = String::new();
        sshd.read_to_string(&mut received).await.unwrap();
        drop(sshd);
        let mut seen = String::new();
        stream.read_to_string(&mut seen).await.unwrap();
        assert_eq!((seen.as_str(), received.as_str()), ("SSH-2.0-x\r\nkex", "SSH-2.0-client"));
    }

    #[tokio::test]
    async fn any_other_greeting_is_an_error() {
        for greeting in [&b"HTTP/1.1 200\r\n"[..], b"", &[b'S'; 400]] {
            let (mut peer, ours) = tokio::io::duplex(1024);
            peer.write_all(greeting).await.unwrap();
            drop(peer);
            assert_eq!(greeted(Box::new(ours)).await.map(drop).unwrap_err().kind, Kind::Boot);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_warm_connection_goes_to_one_client_and_not_for_ever() {
        let warm = WarmConnection::default();
        warm.put(Box::new(tokio::io::duplex(1).0));
        assert!(warm.take().is_some() && warm.take().is_none());
        warm.put(Box::new(tokio::io::duplex(1).0));
        tokio::time::sleep(WARM_FOR + Duration::from_secs(1)).await;
        assert!(warm.take().is_none());
    }
}
