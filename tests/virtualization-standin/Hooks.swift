import Foundation

/// What tests set and read, as C functions for Rust (`rust/hypervisor/src/vz/standin.rs`).
final class Hooks: @unchecked Sendable {
    struct Values {
        var imagine = false
        var entitled = true
        var rosetta = VZLinuxRosettaAvailability.notSupported
        var nested = false
        var failNextStart = 0
        /// Completion handlers are never called.
        var mute = false
        /// Takes the guest's end of a connection to its port; false refuses it.
        var guest: (@Sendable (UInt32, Int32) -> Bool)?
        weak var latest: VZVirtualMachine?
        var machines = 0
        var connections = 0
    }

    static let shared = Hooks()
    private let lock = NSLock()
    private var values = Values()

    func with<T>(_ work: (inout Values) throws -> T) rethrows -> T {
        try lock.withLock { try work(&values) }
    }

    fileprivate var imagined: Imagined? { with { $0.latest?.engine as? Imagined } }
}

@_cdecl("standin_imagine")
public func standinImagine() { Hooks.shared.with { $0.imagine = true } }

@_cdecl("standin_entitled")
public func standinEntitled(_ entitled: Bool) { Hooks.shared.with { $0.entitled = entitled } }

@_cdecl("standin_rosetta")
public func standinRosetta(_ availability: Int) {
    Hooks.shared.with { $0.rosetta = VZLinuxRosettaAvailability(rawValue: availability) ?? .notSupported }
}

@_cdecl("standin_nested")
public func standinNested(_ supported: Bool) { Hooks.shared.with { $0.nested = supported } }

@_cdecl("standin_fail_next_start")
public func standinFailNextStart(_ code: Int) { Hooks.shared.with { $0.failNextStart = code } }

@_cdecl("standin_mute")
public func standinMute(_ mute: Bool) { Hooks.shared.with { $0.mute = mute } }

@_cdecl("standin_guest")
public func standinGuest(_ guest: @escaping @convention(c) (UInt32, Int32) -> Bool) {
    Hooks.shared.with { $0.guest = { guest($0, $1) } }
}

/// The latest machine's guest dials the host: its end of the connection, or -1.
@_cdecl("standin_guest_dials")
public func standinGuestDials(_ port: UInt32) -> Int32 { Hooks.shared.imagined?.guestDials(port) ?? -1 }

/// The latest machine's guest ends: with an error of this code, or with 0 by powering off.
@_cdecl("standin_guest_ends")
public func standinGuestEnds(_ code: Int) { Hooks.shared.imagined?.endGuest(VZError.Code(rawValue: code).map { VZError($0) }) }

@_cdecl("standin_network_lost")
public func standinNetworkLost() { Hooks.shared.with { $0.latest }?.loseNetwork() }

@_cdecl("standin_machines")
public func standinMachines() -> Int { Hooks.shared.with { $0.machines } }

@_cdecl("standin_connections")
public func standinConnections() -> Int { Hooks.shared.with { $0.connections } }
