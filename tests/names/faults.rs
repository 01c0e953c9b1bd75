//! Planted faults, one at a time: each must be found, which proves that the check can fail.

use super::{Sources, apple::Apple};

/// The sources with one fault.
struct Planted {
    sources: Sources,
    apple: Apple,
}

impl Planted {
    fn new() -> Planted {
        Planted { sources: Sources::read(), apple: Apple::load() }
    }

    /// The errors after `from` is replaced by `to` in `files`.
    fn errors(&self, of: fn(&mut Sources) -> Vec<&mut String>, from: &str, to: &str) -> Vec<String> {
        let mut sources = self.sources.clone();
        let mut places = 0;
        for text in of(&mut sources) {
            places += text.matches(from).count();
            *text = text.replace(from, to);
        }
        assert!(places > 0, "there is no {from:?} to plant a fault in");
        sources.complaints(&self.apple)
    }
}

fn shim(sources: &mut Sources) -> Vec<&mut String> {
    sources.shim.iter_mut().map(|(_, text)| text).collect()
}

fn stand_in(sources: &mut Sources) -> Vec<&mut String> {
    sources.stand_in.iter_mut().map(|(_, text)| text).collect()
}

fn list(sources: &mut Sources) -> Vec<&mut String> {
    vec![&mut sources.list]
}

fn everywhere(sources: &mut Sources) -> Vec<&mut String> {
    let swift = sources.shim.iter_mut().chain(&mut sources.stand_in).map(|(_, text)| text);
    swift.chain([&mut sources.list]).collect()
}

#[track_caller]
fn found(errors: &[String], words: &[&str]) {
    assert!(
        errors.iter().any(|line| words.iter().all(|word| line.contains(word))),
        "no error has {words:?}, only: {errors:#?}"
    );
}

#[test]
fn a_slip_in_the_shim_is_found() {
    let tree = Planted::new();
    for (from, to, words) in [
        ("VZLinuxBootLoader(", "VZLinuxBootLodaer(", ["swift/", "VZLinuxBootLodaer"]),
        (".commandLine", ".comandLine", ["swift/", ".comandLine"]),
        ("all.cpuCount", "all.cpusCount", ["swift/", ".cpusCount"]),
        ("requestStop()", "requestStopp()", ["swift/", ".requestStopp"]),
        ("kernelURL:", "kernelUrl:", ["swift/", "VZLinuxBootLoader.init(kernelUrl:)"]),
        ("didStopWithError", "didStopWith", ["lacks", "virtualMachine(_:didStopWithError:)"]),
        (".isSupported", ".isSuported", ["swift/", "VZVirtualMachine.isSuported"]),
    ] {
        found(&tree.errors(shim, from, to), &words);
    }
}

#[test]
fn a_name_that_is_younger_than_the_oldest_macos_must_be_asked_for() {
    let tree = Planted::new();
    for (from, to, words) in [
        ("#available(macOS 15, *)", "true", ["isNestedVirtualization", "needs macOS 15"]),
        ("#available(macOS 15, *)", "#available(macOS 14, *)", ["isNestedVirtualization", "needs macOS 15"]),
        ("#available(macOS 15, *)", "#available(iOS 18, *)", ["isNestedVirtualization", "needs macOS 15"]),
    ] {
        found(&tree.errors(shim, from, to), &words);
    }
}

#[test]
fn a_slip_in_the_stand_in_is_found() {
    let tree = Planted::new();
    for (from, to, words) in [
        ("var initialRamdiskURL", "var initialRamDiskURL", ["virtualization-standin/", "initialRamDiskURL"]),
        ("func requestStop()", "func requestHalt()", ["virtualization-standin/", "requestHalt()"]),
        ("outOfDiskSpace", "outOfSpace", ["virtualization-standin/", "VZError.Code.outOfSpace"]),
        (
            "class VZEFIBootLoader: VZBootLoader",
            "class VZEFIBootLoader: VZLinuxBootLoader",
            ["VZEFIBootLoader", "inherits"],
        ),
        (
            "open class var isSupported: Bool { true }",
            "open class var isSupported = true",
            ["isSupported", "no setSupported:"],
        ),
        ("full = 1, fsync", "fsync = 1, full", ["VZDiskImageSynchronizationMode.full is 2", "Apple's 1"]),
        ("save, restore", "restore, save", ["VZError.Code.restore is 11", "Apple's 12"]),
        ("forPort port: UInt32", "for port: UInt32", ["virtualization-standin/", "setSocketListener(_:for:)"]),
    ] {
        found(&tree.errors(stand_in, from, to), &words);
    }
}

#[test]
fn a_slip_in_the_list_is_found() {
    let tree = Planted::new();
    for (from, to, words) in [
        ("\"initWithKernelURL:\"", "\"initWithKernelUrl:\"", ["VZLinuxBootLoader", "no initWithKernelUrl:"]),
        ("\"VZErrorSave\"", "\"VZErrorSaved\"", ["VZError.Code.save", "no VZErrorSaved"]),
        ("[types.VZSocketDevice]", "[types.VZSocketDevices]", ["VZSocketDevices", "Apple has no"]),
        (
            "doc = \"vzvirtualmachine/state-swift.property\"",
            "doc = \"vzvirtualmachine/delegate\"",
            ["address", "delegate"],
        ),
        (
            "stopped = \"VZVirtualMachineStateStopped\"",
            "stopped = \"VZVirtualMachineStateStarting\"",
            ["stopped", "does not make"],
        ),
        ("apple.com/documentation/virt", "apple.com/docs/virt", ["documentation is at", "apple.com"]),
    ] {
        found(&tree.errors(list, from, to), &words);
    }
}

#[test]
fn a_slip_that_is_the_same_in_all_three_is_found() {
    let tree = Planted::new();
    for (from, to, words) in [
        ("VZMACAddress", "VZMacAddress", ["Apple has no", "VZMacAddress"]),
        ("memoryBalloonDevices", "balloonDevices", ["VZVirtualMachineConfiguration", "no balloonDevices"]),
        ("forPort", "toPort", ["VZVirtioSocketDevice", "no setSocketListener:toPort:"]),
    ] {
        found(&tree.errors(everywhere, from, to), &words);
    }
    // The list keeps Apple's own name here, and the spelling does not match it.
    found(&tree.errors(list, "cpuCount =", "cpus ="), &["cpus", "does not make that of CPUCount"]);
}
