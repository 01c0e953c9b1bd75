//! Work that waits for a disk, in the midst of what must not wait.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does work that blocks: files read, written and brought onto the disk, directories walked, programs run to their end. Where the
/// runtime has several threads, another one takes over the tasks of this one meanwhile, connections among them.
///
/// Unlike a task of its own, the work ends before the caller goes on, and is not left behind when the caller is dropped: what
/// is recorded stays in order. What may hang for ever belongs into `spawn_blocking`.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, time::Duration};

    #[test]
    fn tasks_of_the_thread_that_blocks_go_on() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (done, wait) = mpsc::channel();
        let blocked = runtime.spawn(async move {
            tokio::spawn(async move { done.send(()).unwrap() });
            blocking(|| wait.recv_timeout(Duration::from_secs(60)))
        });
        runtime.block_on(blocked).unwrap().expect("the other task ran meanwhile");
    }

    #[tokio::test]
    async fn with_one_thread_it_is_simply_done() {
        assert_eq!(blocking(|| 7), 7);
    }
}
