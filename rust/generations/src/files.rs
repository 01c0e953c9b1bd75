//! The lock of a machine's files and of its guest.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

/// Locked for reading by everything that may cause a boot, and for writing while the files or the guest are replaced.
#[derive(Default)]
pub struct Files {
    lock: RwLock<()>,
    released: watch::Sender<()>,
}

impl Files {
    /// Locks them for reading.
    pub async fn read(&self) -> Reading<'_> {
        Reading { guard: Some(self.lock.read().await), released: &self.released }
    }

    /// Locks them for writing. Those that read next wait meanwhile.
    pub async fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write().await
    }

    /// Locks them for writing, unless they are locked now.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.lock.try_write().ok()
    }

    /// Changes whenever a reader has released them.
    pub fn released(&self) -> watch::Receiver<()> {
        self.released.subscribe()
    }
}

/// The files, locked for reading.
pub struct Reading<'a> {
    guard: Option<RwLockReadGuard<'a, ()>>,
    released: &'a watch::Sender<()>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // First the lock, so that it is free for those that hear of it.
        self.guard.take();
        self.released.send_replace(());
    }
}
