import Foundation

/// A configuration as command lines of QEMU and its helpers.
struct CommandLine {
    private let configuration: VZVirtualMachineConfiguration
    /// Of this boot alone, for sockets and logs; a configuration with an initial RAM disk brings its own.
    private let scratch: String

    init(_ configuration: VZVirtualMachineConfiguration, scratch: String) {
        self.configuration = configuration
        self.scratch = scratch
    }

    #if arch(x86_64)
    let emulator = "qemu-system-x86_64"
    // The firmware needs no system management mode, and does not know five levels of page tables.
    private let machine = "q35,vmport=off,hpet=off,smm=off"
    private let anyProcessor = "max,la57=off"
    #else
    let emulator = "qemu-system-aarch64"
    private let machine = "virt,gic-version=max"
    private let anyProcessor = "max,pauth-impdef=on"
    #endif

    var directory: String {
        let initrd = (configuration.bootLoader as? VZLinuxBootLoader)?.initialRamdiskURL
        return initrd?.deletingLastPathComponent().path ?? scratch
    }
    var vsock: String { "\(directory)/vsock" }
    var monitor: String { "\(directory)/qmp" }
    private var vhost: String { "\(directory)/vhost-vsock" }

    /// Where the console goes: the port's own handle.
    var console: FileHandle? {
        (configuration.serialPorts.first?.attachment as? VZFileHandleSerialPortAttachment)?.fileHandleForWriting
    }

    private var shares: [(tag: String, directory: VZSharedDirectory)] {
        configuration.directorySharingDevices.compactMap { device in
            guard let device = device as? VZVirtioFileSystemDeviceConfiguration,
                  let share = device.share as? VZSingleDirectoryShare else { return nil }
            return (device.tag, share.directory)
        }
    }

    /// Programs that QEMU needs, each with the socket that it makes when it is ready.
    func helpers() -> [(name: String, socket: String, arguments: [String])] {
        let vsock = ("vhost-device-vsock", vhost,
                     ["--guest-cid", "3", "--socket", vhost, "--uds-path", vsock])
        return [vsock] + shares.enumerated().map { index, share in
            let socket = "\(directory)/virtiofs-\(index)"
            let readOnly = share.directory.isReadOnly ? ["--readonly"] : []
            return ("virtiofsd", socket, [
                "--socket-path", socket, "--shared-dir", share.directory.url.path,
                "--sandbox", "none", "--cache", "auto"] + readOnly)
        }
    }

    func arguments() throws -> [String] {
        let native = canAccelerate
        var line = [
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-machine", "\(machine),memory-backend=memory", "-cpu", native ? "host" : anyProcessor,
            "-accel", native ? "kvm" : "tcg", "-smp", "\(configuration.cpuCount)",
            // The helpers map the guest's memory.
            "-object", "memory-backend-memfd,id=memory,size=\(configuration.memorySize),share=on",
            "-m", "\(configuration.memorySize)B",
            "-chardev", "socket,id=qmp,server=off,path=\(escaped(monitor))", "-mon", "chardev=qmp,mode=control",
        ]
        line += try begin()
        if configuration.storageDevices.contains(where: { $0 is VZUSBMassStorageDeviceConfiguration }) {
            line += ["-device", "qemu-xhci,id=usb"]
        }
        for (index, device) in configuration.storageDevices.enumerated() {
            line += try disk(device, "disk\(index)")
        }
        if console != nil {
            line += ["-chardev", "stdio,id=console,signal=off", "-device", "virtio-serial-pci",
                     "-device", "virtconsole,chardev=console"]
        }
        for (index, device) in configuration.networkDevices.enumerated() {
            let mac = device.macAddress.map { ",mac=\($0.string)" } ?? ""
            line += ["-netdev", "user,id=net\(index)", "-device", "virtio-net-pci,netdev=net\(index),romfile=\(mac)"]
        }
        for _ in configuration.entropyDevices { line += ["-device", "virtio-rng-pci"] }
        for _ in configuration.memoryBalloonDevices { line += ["-device", "virtio-balloon-pci"] }
        for _ in configuration.socketDevices {
            line += ["-chardev", "socket,id=vsock,path=\(escaped(vhost))", "-device", "vhost-user-vsock-pci,chardev=vsock"]
        }
        for (index, share) in shares.enumerated() {
            line += ["-chardev", "socket,id=share\(index),path=\(escaped("\(directory)/virtiofs-\(index)"))",
                     "-device", "vhost-user-fs-pci,chardev=share\(index),tag=\(share.tag),queue-size=1024"]
        }
        return line
    }

    /// A kernel, or the firmware with the machine's own variables.
    private func begin() throws -> [String] {
        switch configuration.bootLoader {
        case let loader as VZLinuxBootLoader:
            let initrd = loader.initialRamdiskURL.map { ["-initrd", $0.path] } ?? []
            return ["-kernel", loader.kernelURL.path, "-append", loader.commandLine] + initrd
        case let loader as VZEFIBootLoader:
            guard let store = loader.variableStore else { throw VZError(.invalidVirtualMachineConfiguration) }
            return ["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=\(Firmware.code)",
                    "-drive", "if=pflash,unit=1,format=raw,file=\(escaped(store.url.path))"]
        default: throw VZError(.notSupported, "The stand-in has no such boot loader.")
        }
    }

    private func disk(_ device: VZStorageDeviceConfiguration, _ id: String) throws -> [String] {
        guard let image = device.attachment as? VZDiskImageStorageDeviceAttachment else {
            throw VZError(.notSupported, "The stand-in has disk images only.")
        }
        var model = switch device {
            case is VZNVMExpressControllerDeviceConfiguration: "nvme,serial=\(id),drive=\(id)"
            case is VZUSBMassStorageDeviceConfiguration: "usb-storage,bus=usb.0,drive=\(id),werror=report,rerror=report"
            default: "virtio-blk-pci,drive=\(id),werror=report,rerror=report"
        }
        if let device = device as? VZVirtioBlockDeviceConfiguration, !device.blockDeviceIdentifier.isEmpty {
            model += ",serial=\(device.blockDeviceIdentifier)"
        }
        let readOnly = image.isReadOnly ? "on" : "off"
        let node = "driver=file,node-name=\(id),read-only=\(readOnly),discard=unmap,filename=\(escaped(image.url.path))"
        return ["-blockdev", node, "-device", model]
    }

    /// A comma in the value of an option is doubled.
    private func escaped(_ path: String) -> String { path.replacingOccurrences(of: ",", with: ",,") }

    /// Some hosts have a `/dev/kvm` under which kernels hang; their processors do not claim the feature.
    private var canAccelerate: Bool {
        guard access("/dev/kvm", R_OK | W_OK) == 0,
              let info = try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8) else { return false }
        return ["vmx", "svm", "CPU implementer"].contains { info.contains($0) }
    }
}

/// Debian's firmware.
enum Firmware {
    #if arch(x86_64)
    static let code = "/usr/share/OVMF/OVMF_CODE_4M.fd"
    static let template = "/usr/share/OVMF/OVMF_VARS_4M.fd"
    #else
    static let code = "/usr/share/AAVMF/AAVMF_CODE.fd"
    static let template = "/usr/share/AAVMF/AAVMF_VARS.fd"
    #endif

    /// The variables of a machine that has never run.
    static func variables() throws -> Data {
        guard let data = FileManager.default.contents(atPath: template) else {
            throw VZError(.internalError, "There is no \(template): install ovmf, or qemu-efi-aarch64.")
        }
        return data
    }
}
