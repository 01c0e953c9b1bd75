import Dispatch
import Foundation

/// A guest that exists in memory alone. What it does, and what goes wrong, tests say through `Hooks`.
final class Imagined: Engine, @unchecked Sendable {
    private let lock = NSLock()
    private var ended: (@Sendable (VZError?) -> Void)?
    private var heard: [UInt32: @Sendable (Int32) -> Void] = [:]
    /// What a saved state begins with.
    private static let mark = Data("imagined machine".utf8)

    /// Answers after a moment, so that much can happen meanwhile; or never.
    private func soon(_ answer: @escaping @Sendable (VZError?) -> Void, _ error: VZError? = nil) {
        if Hooks.shared.with({ $0.mute }) { return }
        DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(5)) { answer(error) }
    }

    func start(_ ended: @escaping @Sendable (VZError?) -> Void, _ answer: @escaping @Sendable (VZError?) -> Void) {
        lock.withLock { self.ended = ended }
        let code = Hooks.shared.with { hooks in
            defer { hooks.failNextStart = 0 }
            return hooks.failNextStart
        }
        soon(answer, VZError.Code(rawValue: code).map { VZError($0) })
    }

    func pressPowerButton() { endGuest(nil) }
    func pause(_ answer: @escaping @Sendable (VZError?) -> Void) { soon(answer) }
    func resume(_ answer: @escaping @Sendable (VZError?) -> Void) { soon(answer) }
    func save(to url: URL, _ answer: @escaping @Sendable (VZError?) -> Void) {
        soon(answer, (try? Self.mark.write(to: url)) == nil ? VZError(.save, "Cannot write \(url.path).") : nil)
    }
    func restore(from url: URL, _ answer: @escaping @Sendable (VZError?) -> Void) {
        soon(answer, (try? Data(contentsOf: url)) == Self.mark ? nil : VZError(.restore, "This is no saved machine."))
    }

    func dial(_ port: UInt32, _ answer: @escaping @Sendable (Result<Int32, any Error>) -> Void) {
        guard let (ours, theirs) = pair(), let guest = Hooks.shared.with({ $0.guest }), guest(port, theirs) else {
            return answer(.failure(NSError(domain: NSPOSIXErrorDomain, code: Int(ECONNRESET))))
        }
        answer(.success(ours))
    }

    func hear(_ port: UInt32, _ arrived: (@Sendable (Int32) -> Void)?) { lock.withLock { heard[port] = arrived } }

    func end() {
        lock.withLock {
            ended = nil
            heard = [:]
        }
    }

    /// For tests: the guest ends by itself.
    func endGuest(_ error: VZError?) { lock.withLock { ended }?(error) }

    /// For tests: the guest dials the host; its end of the connection, or -1.
    func guestDials(_ port: UInt32) -> Int32 {
        guard let arrived = lock.withLock({ heard[port] }), let (ours, theirs) = pair() else { return -1 }
        arrived(ours)
        return theirs
    }

    private func pair() -> (Int32, Int32)? {
        var ends: [Int32] = [-1, -1]
        let made = socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends)
        return made == 0 ? (ends[0], ends[1]) : nil
    }
}
