// A stand-in for Apple's module `Virtualization` on Linux, for tests. It has what `swift/` uses, under Apple's Swift names and
// with Apple's signatures, so that the shim compiles unchanged. It is stricter than Apple's where that finds faults:
// members of delegate protocols are required, and a machine that is used off its queue ends the process.
//
// A machine runs in one of two ways (`Engine`): imagined, in memory, with faults on demand (`Imagined`, for the tests of
// shim and bridge); or really, by QEMU (`Emulated`), so that the whole program boots a guest through this module.

@_exported import Foundation

public struct VZError: CustomNSError, LocalizedError, Sendable {
    public static let errorDomain = "VZErrorDomain"
    public enum Code: Int, Sendable {
        case internalError = 1, invalidVirtualMachineConfiguration, invalidVirtualMachineState
        case invalidVirtualMachineStateTransition, invalidDiskImage, virtualMachineLimitExceeded, networkError
        case outOfDiskSpace, operationCancelled, notSupported, save, restore
    }

    public let code: Code
    /// The stand-in's own: what a test or a log should see of the cause.
    let reason: String?

    init(_ code: Code, _ reason: String? = nil) {
        self.code = code
        self.reason = reason
    }

    public var errorCode: Int { code.rawValue }
    public var errorDescription: String? { "stand-in: \(code)." }
    public var failureReason: String? { reason }
    public var errorUserInfo: [String: Any] {
        var info: [String: Any] = [NSLocalizedDescriptionKey: "stand-in: \(code)."]
        if let reason { info[NSLocalizedFailureReasonErrorKey] = reason }
        return info
    }
}

/// Lets a completion handler, which Apple does not declare Sendable, travel to another queue.
struct Carried<T>: @unchecked Sendable {
    let value: T
    init(_ value: T) { self.value = value }
}
