//! The guest bundle, by the same rules as a boot.

use super::{
    finding::Finding,
    opened_bundle::{TIMEOUT, open},
    subject::Subject,
};
use dvn_guest::{
    bundle::{Bundle, BundleError},
    disk,
};
use dvn_types::{Kind, Report};

/// The check `bundle`.
pub async fn bundle(subject: &Subject) -> Finding {
    // A boot never shrinks the image: one that is larger than configured keeps its size, unless each boot starts with a
    // new one.
    let disk = subject.settings.as_ref().map_or(0, |settings| match settings.builder.ephemeral {
        true => settings.builder.disk_size,
        false => disk::size(&subject.dir().data_disk(), settings.builder.disk_size),
    });
    match open(subject).await {
        Ok(Some(opened)) => judge_bundle(opened, disk),
        Ok(None) => Finding::failed(Kind::Bundle, format!("its files cannot be read within {TIMEOUT:?}"))
            .hint("check the volume that holds them, or use a bundle on another volume"),
        Err(finding) => finding,
    }
}

fn judge_bundle(opened: Result<Bundle, BundleError>, disk: u64) -> Finding {
    match opened {
        Ok(bundle) if bundle.minimum_disk > disk => {
            let [needed, given] = [bundle.minimum_disk, disk].map(super::volumes::shown);
            Finding::failed(
                Kind::Config,
                format!("it needs a disk of {needed}, and the setting disk-size gives {given}"),
            )
            .hint(format!("set disk-size to {needed} or more"))
        }
        Ok(bundle) => Finding::ok(format!("for {}, with all its files", bundle.arch)),
        // Reported by the check `kernel`.
        Err(BundleError::Kernel { arch, .. }) => {
            Finding::ok(format!("for {arch}; for the kernel see the check kernel"))
        }
        Err(error) => Report::from(error).into(),
    }
}

/// The check `kernel`.
pub async fn kernel(subject: &Subject) -> Finding {
    match open(subject).await {
        Ok(Some(opened)) => judge_kernel(opened),
        Ok(None) => Finding::not_applicable("the bundle cannot be read: see the check bundle"),
        Err(finding) => finding,
    }
}

fn judge_kernel(opened: Result<Bundle, BundleError>) -> Finding {
    match opened {
        Ok(bundle) => Finding::ok(format!("{} is in a bootable format", bundle.kernel.display())),
        Err(error @ BundleError::Kernel { .. }) => Report::from(error).into(),
        Err(_) => Finding::not_applicable("the bundle is wrong: see the check bundle"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Outcome;
    use dvn_types::Arch;

    fn bundle() -> Bundle {
        Bundle {
            arch: Arch::Aarch64,
            kernel: "/b/Image".into(),
            initrd: "/b/initrd".into(),
            cmdline: String::new(),
            images: Vec::new(),
            ssh_user: "builder".to_owned(),
            minimum_disk: 1 << 30,
            host_store: true,
        }
    }

    fn gzip() -> BundleError {
        let (found, needed) = ("compressed with gzip", "an uncompressed arm64 Image");
        BundleError::Kernel { path: "/b/Image".into(), arch: Arch::Aarch64, found, needed }
    }

    #[test]
    fn a_kernel_in_the_wrong_form_is_one_fault_and_not_two() {
        assert_eq!(judge_bundle(Err(gzip()), 1 << 30).outcome, Outcome::Ok);
        let finding = judge_kernel(Err(gzip()));
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Bundle)));
        assert!(finding.hints[0].contains("gzip -dc"), "{finding:?}");
    }

    #[test]
    fn so_is_a_bundle_for_another_processor() {
        let foreign = || BundleError::WrongArch { dir: "/b".into(), arch: Arch::X86_64, can: vec![Arch::Aarch64] };
        let finding = judge_bundle(Err(foreign()), 1 << 30);
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Bundle)));
        assert_eq!(judge_kernel(Err(foreign())).outcome, Outcome::NotApplicable);
        assert_eq!(judge_bundle(Err(BundleError::None), 0).outcome, Outcome::Failed);
    }

    #[test]
    fn a_fit_bundle_needs_a_disk_that_is_large_enough() {
        assert_eq!(judge_bundle(Ok(bundle()), 1 << 30), Finding::ok("for aarch64, with all its files"));
        assert_eq!(judge_kernel(Ok(bundle())).outcome, Outcome::Ok);
        let finding = judge_bundle(Ok(bundle()), (1 << 30) - 1);
        assert_eq!((finding.outcome, finding.kind), (Outcome::Failed, Some(Kind::Config)));
    }
}
