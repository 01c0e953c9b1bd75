import Foundation

// The parts of a configuration. They hold what they are told and check what Apple's check.

open class VZBootLoader: NSObject {}

open class VZLinuxBootLoader: VZBootLoader {
    open var kernelURL: URL
    open var commandLine = ""
    open var initialRamdiskURL: URL?
    public init(kernelURL: URL) { self.kernelURL = kernelURL }
}

open class VZEFIVariableStore: NSObject {
    public struct InitializationOptions: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let allowOverwrite = InitializationOptions(rawValue: 1)
    }

    public let url: URL
    public init(url: URL) { self.url = url }
    public init(creatingVariableStoreAt url: URL, options: InitializationOptions = []) throws {
        self.url = url
        let writing: Data.WritingOptions = options.contains(.allowOverwrite) ? [] : .withoutOverwriting
        try Firmware.variables().write(to: url, options: writing)
    }
}

open class VZEFIBootLoader: VZBootLoader {
    open var variableStore: VZEFIVariableStore?
    public override init() {}
}

open class VZGenericMachineIdentifier: NSObject {
    public let dataRepresentation: Data
    public override init() { dataRepresentation = Data((0..<16).map { _ in UInt8.random(in: 0...255) }) }
    public init?(dataRepresentation: Data) {
        guard dataRepresentation.count == 16 else { return nil }
        self.dataRepresentation = dataRepresentation
    }
}

open class VZPlatformConfiguration: NSObject {}

open class VZGenericPlatformConfiguration: VZPlatformConfiguration {
    open class var isNestedVirtualizationSupported: Bool { Hooks.shared.with { $0.nested } }
    open var isNestedVirtualizationEnabled = false
    open var machineIdentifier = VZGenericMachineIdentifier()
    public override init() {}
}

public enum VZDiskImageCachingMode: Int, Sendable { case automatic, uncached, cached }
public enum VZDiskImageSynchronizationMode: Int, Sendable { case full = 1, fsync, none }

open class VZStorageDeviceAttachment: NSObject {}

open class VZDiskImageStorageDeviceAttachment: VZStorageDeviceAttachment {
    public let url: URL
    public let isReadOnly: Bool
    public let cachingMode: VZDiskImageCachingMode
    public let synchronizationMode: VZDiskImageSynchronizationMode
    public init(
        url: URL, readOnly: Bool, cachingMode: VZDiskImageCachingMode,
        synchronizationMode: VZDiskImageSynchronizationMode
    ) throws {
        let file = url.resolvingSymlinksInPath().path
        let size = try? FileManager.default.attributesOfItem(atPath: file)[.size] as? Int
        guard let size, size > 0, size % 512 == 0 else { throw VZError(.invalidDiskImage, url.path) }
        self.url = url
        isReadOnly = readOnly
        self.cachingMode = cachingMode
        self.synchronizationMode = synchronizationMode
    }
}

open class VZStorageDeviceConfiguration: NSObject {
    public let attachment: VZStorageDeviceAttachment
    init(attachment: VZStorageDeviceAttachment) { self.attachment = attachment }
}

open class VZVirtioBlockDeviceConfiguration: VZStorageDeviceConfiguration {
    open var blockDeviceIdentifier = ""
    public override init(attachment: VZStorageDeviceAttachment) { super.init(attachment: attachment) }
}
open class VZUSBMassStorageDeviceConfiguration: VZStorageDeviceConfiguration {
    public override init(attachment: VZStorageDeviceAttachment) { super.init(attachment: attachment) }
}
open class VZNVMExpressControllerDeviceConfiguration: VZStorageDeviceConfiguration {
    public override init(attachment: VZStorageDeviceAttachment) { super.init(attachment: attachment) }
}

open class VZSharedDirectory: NSObject {
    public let url: URL
    public let isReadOnly: Bool
    public init(url: URL, readOnly: Bool) {
        self.url = url
        isReadOnly = readOnly
    }
}

open class VZDirectoryShare: NSObject {}

open class VZSingleDirectoryShare: VZDirectoryShare {
    public let directory: VZSharedDirectory
    public init(directory: VZSharedDirectory) { self.directory = directory }
}

public enum VZLinuxRosettaAvailability: Int, Sendable { case notSupported, notInstalled, installed }

open class VZLinuxRosettaDirectoryShare: VZDirectoryShare {
    public enum CachingOptions: Sendable {
        case abstractSocket(String), unixSocket(String)
        public static var defaultUnixSocket: CachingOptions { .unixSocket("/run/rosettad/rosetta.sock") }
    }

    open class var availability: VZLinuxRosettaAvailability { Hooks.shared.with { $0.rosetta } }
    public private(set) var cachingOptions: CachingOptions?

    // NSObject's `init()` does not throw and cannot be overridden by one that does; this is called the same way.
    public init(_: Void = ()) throws {
        guard Self.availability == .installed else { throw VZError(.notSupported, "Rosetta is not installed.") }
        super.init()
    }
    open func setCachingOptions(_ options: CachingOptions?) throws { cachingOptions = options }
}

open class VZDirectorySharingDeviceConfiguration: NSObject {}

open class VZVirtioFileSystemDeviceConfiguration: VZDirectorySharingDeviceConfiguration {
    public let tag: String
    open var share: VZDirectoryShare?
    public init(tag: String) { self.tag = tag }
}

open class VZMACAddress: NSObject {
    public let string: String
    public init?(string: String) {
        let bytes = string.split(separator: ":", omittingEmptySubsequences: false)
        guard bytes.count == 6, bytes.allSatisfy({ $0.count == 2 && UInt8($0, radix: 16) != nil }) else { return nil }
        self.string = string.lowercased()
    }
}

open class VZNetworkDeviceAttachment: NSObject {}
open class VZNATNetworkDeviceAttachment: VZNetworkDeviceAttachment { public override init() {} }
open class VZNetworkDevice: NSObject {}

open class VZNetworkDeviceConfiguration: NSObject {
    open var attachment: VZNetworkDeviceAttachment?
    open var macAddress: VZMACAddress?
}

open class VZVirtioNetworkDeviceConfiguration: VZNetworkDeviceConfiguration { public override init() {} }

open class VZSerialPortAttachment: NSObject {}

open class VZFileHandleSerialPortAttachment: VZSerialPortAttachment {
    public let fileHandleForReading: FileHandle?
    public let fileHandleForWriting: FileHandle?
    public init(fileHandleForReading: FileHandle?, fileHandleForWriting: FileHandle?) {
        self.fileHandleForReading = fileHandleForReading
        self.fileHandleForWriting = fileHandleForWriting
    }
}

open class VZSerialPortConfiguration: NSObject { open var attachment: VZSerialPortAttachment? }
open class VZVirtioConsoleDeviceSerialPortConfiguration: VZSerialPortConfiguration { public override init() {} }
open class VZSocketDeviceConfiguration: NSObject {}
open class VZVirtioSocketDeviceConfiguration: VZSocketDeviceConfiguration { public override init() {} }
open class VZEntropyDeviceConfiguration: NSObject {}
open class VZVirtioEntropyDeviceConfiguration: VZEntropyDeviceConfiguration { public override init() {} }
open class VZMemoryBalloonDeviceConfiguration: NSObject {}
open class VZVirtioTraditionalMemoryBalloonDeviceConfiguration: VZMemoryBalloonDeviceConfiguration {
    public override init() {}
}

open class VZVirtualMachineConfiguration: NSObject {
    open var bootLoader: VZBootLoader?
    open var platform: VZPlatformConfiguration = VZGenericPlatformConfiguration()
    open var cpuCount = 1
    open var memorySize: UInt64 = 0
    open var storageDevices: [VZStorageDeviceConfiguration] = []
    open var directorySharingDevices: [VZDirectorySharingDeviceConfiguration] = []
    open var networkDevices: [VZNetworkDeviceConfiguration] = []
    open var serialPorts: [VZSerialPortConfiguration] = []
    open var socketDevices: [VZSocketDeviceConfiguration] = []
    open var entropyDevices: [VZEntropyDeviceConfiguration] = []
    open var memoryBalloonDevices: [VZMemoryBalloonDeviceConfiguration] = []
    public override init() {}

    open class var minimumAllowedCPUCount: Int { 1 }
    open class var maximumAllowedCPUCount: Int { 64 }
    open class var minimumAllowedMemorySize: UInt64 { 4 << 20 }
    open class var maximumAllowedMemorySize: UInt64 { 1 << 40 }

    open func validate() throws {
        func must(_ condition: Bool, _ reason: String) throws {
            if !condition { throw VZError(.invalidVirtualMachineConfiguration, reason) }
        }
        try must(Hooks.shared.with { $0.entitled },
                 "The process doesn’t have the “com.apple.security.virtualization” entitlement.")
        try must(bootLoader != nil, "There is no boot loader.")
        try must((Self.minimumAllowedCPUCount...Self.maximumAllowedCPUCount).contains(cpuCount), "Invalid CPU count.")
        try must((Self.minimumAllowedMemorySize...Self.maximumAllowedMemorySize).contains(memorySize)
            && memorySize % (1 << 20) == 0, "Invalid memory size.")
        if let platform = platform as? VZGenericPlatformConfiguration, platform.isNestedVirtualizationEnabled {
            try must(VZGenericPlatformConfiguration.isNestedVirtualizationSupported, "No nested virtualization.")
        }
        let tags = directorySharingDevices.compactMap { ($0 as? VZVirtioFileSystemDeviceConfiguration)?.tag }
        try must(Set(tags).count == tags.count, "Two shares have one tag.")
    }

    open func validateSaveRestoreSupport() throws {
        guard directorySharingDevices.isEmpty else { throw VZError(.notSupported, "A directory is shared.") }
    }
}
