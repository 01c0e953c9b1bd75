//! Kernel modules of the initramfs: files in one directory, loaded in the order of its `list`.

use crate::console::say;
use rustix::{fs, io::Errno, system};
use std::path::Path;

/// Names in a module list: one per line; blank lines, comments and anything that is not a plain file name are skipped.
pub fn parse_list(list: &str) -> Vec<&str> {
    list.lines()
        .map(str::trim)
        .filter(|name| {
            !name.starts_with(['#', '.'])
                && name.strip_suffix(".ko").is_some_and(|stem| {
                    !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
                })
        })
        .collect()
}

/// Loads the listed modules. A module that fails to load is reported; the part that needs it fails later with a better
/// reason.
pub fn load(dir: &Path) {
    let list = std::fs::read_to_string(dir.join("list")).unwrap_or_default();
    for name in parse_list(&list) {
        let loaded = fs::open(dir.join(name), fs::OFlags::RDONLY | fs::OFlags::CLOEXEC, fs::Mode::empty())
            .and_then(|file| system::finit_module(file, c"", 0));
        match loaded {
            Ok(()) | Err(Errno::EXIST) => {}
            // A driver of hardware that is absent.
            Err(Errno::NODEV) => {}
            Err(e) => say(format_args!("module {name}: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_plain_module_names_count() {
        let list = "# first\nvirtio.ko\n\n  virtio_blk.ko  \n../evil.ko\n/x.ko\nreadme\n.ko\nrng-core.ko";
        assert_eq!(parse_list(list), ["virtio.ko", "virtio_blk.ko", "rng-core.ko"]);
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_directory(list in any::<String>()) {
            for name in parse_list(&list) {
                prop_assert!(!name.contains('/') && !name.contains('\0') && name.ends_with(".ko"));
            }
        }
    }
}
