import Foundation
import Virtualization

/// The capabilities of this computer and its system, as JSON. Rust treats invalid JSON as an error.
func shimCapabilities() -> String {
    typealias Limits = VZVirtualMachineConfiguration
    let system = ProcessInfo.processInfo.operatingSystemVersion
    var nested = false
    if #available(macOS 15, *) { nested = VZGenericPlatformConfiguration.isNestedVirtualizationSupported }
    let all: [String: Any] = [
        "supported": VZVirtualMachine.isSupported, "nested": nested,
        "rosetta": VZLinuxRosettaDirectoryShare.availability.rawValue,
        "system": [system.majorVersion, system.minorVersion, system.patchVersion],
        "cpus": [Limits.minimumAllowedCPUCount, Limits.maximumAllowedCPUCount],
        "memory": [Limits.minimumAllowedMemorySize, Limits.maximumAllowedMemorySize],
    ]
    return (try? JSONSerialization.data(withJSONObject: all)).map { String(decoding: $0, as: UTF8.self) } ?? ""
}

/// A new identity, in base 64. A restored machine needs the identity with which it was saved.
func shimMachineIdentifier() -> String { VZGenericMachineIdentifier().dataRepresentation.base64EncodedString() }
