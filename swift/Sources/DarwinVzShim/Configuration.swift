import Foundation
import Virtualization

/// The configuration that Rust requests (`rust/hypervisor/src/vz/spec.rs`). Only what has a device may be absent.
struct MachineSpec: Decodable {
    let cpus: Int, memory: UInt64
    let boot: BootSpec
    let disks: [DiskSpec], shares: [ShareSpec]
    let rosetta: RosettaSpec?
    let nics: [String], vsock: Bool, nested: Bool, identifier: String?
    /// A descriptor that Rust lends for the call; the guest's output is written to it.
    let console: Int32?

    func configuration() throws -> VZVirtualMachineConfiguration {
        let all = VZVirtualMachineConfiguration()
        (all.cpuCount, all.memorySize) = (cpus, memory)
        all.bootLoader = try boot.loader()
        all.platform = try platform()
        all.storageDevices = try disks.map { try $0.device() }
        all.directorySharingDevices = shares.map { $0.device() }
        if let rosetta { all.directorySharingDevices.append(try rosetta.device()) }
        all.networkDevices = try nics.map { try network($0) }
        if let console { all.serialPorts = [try serialPort(console)] }
        if vsock { all.socketDevices = [VZVirtioSocketDeviceConfiguration()] }
        all.entropyDevices = [VZVirtioEntropyDeviceConfiguration()]
        all.memoryBalloonDevices = [VZVirtioTraditionalMemoryBalloonDeviceConfiguration()]
        try all.validate()
        return all
    }

    private func platform() throws -> VZPlatformConfiguration {
        let platform = VZGenericPlatformConfiguration()
        if let identifier {
            let known = Data(base64Encoded: identifier).flatMap { VZGenericMachineIdentifier(dataRepresentation: $0) }
            guard let known else { throw fault(.spec, "the machine's identifier is damaged") }
            platform.machineIdentifier = known
        }
        if nested {
            guard #available(macOS 15, *) else { throw fault(.system, "nested virtualization needs macOS 15") }
            platform.isNestedVirtualizationEnabled = true
        }
        return platform
    }

    private func network(_ mac: String) throws -> VZNetworkDeviceConfiguration {
        guard let address = VZMACAddress(string: mac) else { throw fault(.spec, "\(mac) is no MAC address") }
        let device = VZVirtioNetworkDeviceConfiguration()
        device.macAddress = address
        device.attachment = VZNATNetworkDeviceAttachment()
        return device
    }

    private func serialPort(_ lent: Int32) throws -> VZSerialPortConfiguration {
        let own = FileHandle(fileDescriptor: try duplicate(lent), closeOnDealloc: true)
        let port = VZVirtioConsoleDeviceSerialPortConfiguration()
        port.attachment = VZFileHandleSerialPortAttachment(fileHandleForReading: nil, fileHandleForWriting: own)
        return port
    }
}

enum BootSpec: Decodable {
    case linux(kernel: String, initrd: String, cmdline: String)
    /// `create`: the variable store does not exist yet.
    case efi(variables: String, create: Bool)

    func loader() throws -> VZBootLoader {
        switch self {
        case .linux(let kernel, let initrd, let cmdline):
            let loader = VZLinuxBootLoader(kernelURL: file(kernel))
            loader.initialRamdiskURL = file(initrd)
            loader.commandLine = cmdline
            return loader
        case .efi(let variables, let create):
            let loader = VZEFIBootLoader(), url = file(variables)
            loader.variableStore = try create ? .init(creatingVariableStoreAt: url) : .init(url: url)
            return loader
        }
    }
}

struct DiskSpec: Decodable {
    enum Bus: String, Decodable { case virtio, nvme, usb }
    let path: String, readOnly: Bool, bus: Bus, serial: String?

    func device() throws -> VZStorageDeviceConfiguration {
        // Not `.automatic`, which was seen to corrupt Linux file systems.
        let image = try VZDiskImageStorageDeviceAttachment(
            url: file(path), readOnly: readOnly, cachingMode: .cached, synchronizationMode: .fsync)
        switch bus {
        case .virtio:
            let disk = VZVirtioBlockDeviceConfiguration(attachment: image)
            if let serial { disk.blockDeviceIdentifier = serial }
            return disk
        case .usb: return VZUSBMassStorageDeviceConfiguration(attachment: image)
        case .nvme: return VZNVMExpressControllerDeviceConfiguration(attachment: image)
        }
    }
}

struct ShareSpec: Decodable {
    let tag: String, path: String, readOnly: Bool

    func device() -> VZDirectorySharingDeviceConfiguration {
        let directory = VZSharedDirectory(url: file(path), readOnly: readOnly)
        return sharing(VZSingleDirectoryShare(directory: directory), tag)
    }
}

struct RosettaSpec: Decodable {
    let tag: String
    /// Rosetta caches its translations, with the help of the guest's rosettad.
    let caching: Bool

    func device() throws -> VZDirectorySharingDeviceConfiguration {
        let share = try VZLinuxRosettaDirectoryShare()
        if caching { try share.setCachingOptions(.defaultUnixSocket) }
        return sharing(share, tag)
    }
}

private func sharing(_ share: VZDirectoryShare, _ tag: String) -> VZDirectorySharingDeviceConfiguration {
    let device = VZVirtioFileSystemDeviceConfiguration(tag: tag)
    device.share = share
    return device
}

/// Faults that the framework has no error for; `rust/hypervisor/src/vz/reason.rs` reads the codes.
enum Fault: Int { case spec = 1, system, dropped }

func fault(_ fault: Fault, _ text: String) -> NSError {
    NSError(domain: "darwin-vz-nix", code: fault.rawValue, userInfo: [NSLocalizedDescriptionKey: text])
}

func file(_ path: String) -> URL { URL(fileURLWithPath: path) }

func duplicate(_ descriptor: Int32) throws -> Int32 {
    let own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    guard own >= 0 else { throw NSError(domain: NSPOSIXErrorDomain, code: Int(errno)) }
    return own
}
