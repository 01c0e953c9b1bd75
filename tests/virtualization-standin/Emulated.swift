import Dispatch
import Foundation

/// Runs a configuration with QEMU, vhost-device-vsock and virtiofsd. Their sockets are made beside the initial RAM disk,
/// which is in a directory of this boot alone, or in one made for it where there is none.
///
/// Everything happens on `own`, a serial queue; only waiting for a guest's vsock does not.
final class Emulated: Engine, @unchecked Sendable {
    private let configuration: VZVirtualMachineConfiguration
    private let scratch = NSTemporaryDirectory() + "/vz-" + UUID().uuidString
    private let own = DispatchQueue(label: "stand-in.qemu")
    private var helpers: [Program] = []
    private var qemu: Program?
    private var monitor: Monitor?
    private var ended: (@Sendable (VZError?) -> Void)?
    private var doors: [UInt32: any DispatchSourceRead] = [:]

    init(_ configuration: VZVirtualMachineConfiguration) { self.configuration = configuration }

    func start(_ ended: @escaping @Sendable (VZError?) -> Void, _ answer: @escaping @Sendable (VZError?) -> Void) {
        own.async { [self] in
            self.ended = ended
            do {
                try launch()
                answer(nil)
            } catch {
                clear()
                answer(error as? VZError ?? VZError(.internalError, "\(error)"))
            }
        }
    }

    func pressPowerButton() { own.async { self.monitor?.run("system_powerdown") } }
    func pause(_ answer: @escaping @Sendable (VZError?) -> Void) { tell("stop", answer) }
    func resume(_ answer: @escaping @Sendable (VZError?) -> Void) { tell("cont", answer) }
    func save(to url: URL, _ answer: @escaping @Sendable (VZError?) -> Void) { answer(VZError(.notSupported)) }
    func restore(from url: URL, _ answer: @escaping @Sendable (VZError?) -> Void) { answer(VZError(.notSupported)) }

    func dial(_ port: UInt32, _ answer: @escaping @Sendable (Result<Int32, any Error>) -> Void) {
        let path = line.vsock
        DispatchQueue.global().async {
            let dialled = UnixSocket.connect(path).flatMap { $0.asksFor(port: port) ? $0.take() : nil }
            answer(dialled.map { .success($0) }
                ?? .failure(NSError(domain: NSPOSIXErrorDomain, code: Int(ECONNRESET))))
        }
    }

    func hear(_ port: UInt32, _ arrived: (@Sendable (Int32) -> Void)?) {
        own.async { [self] in
            doors.removeValue(forKey: port)?.cancel()
            guard let arrived, let door = UnixSocket.listen("\(line.vsock)_\(port)") else { return }
            let source = DispatchSource.makeReadSource(fileDescriptor: door.descriptor, queue: own)
            source.setEventHandler { if let guest = door.accept(within: 0)?.take() { arrived(guest) } }
            source.setCancelHandler { door.unlink() }
            source.resume()
            doors[port] = source
        }
    }

    func end() { own.sync { clear() } }

    private var line: CommandLine { CommandLine(configuration, scratch: scratch) }

    private func tell(_ command: String, _ answer: @escaping @Sendable (VZError?) -> Void) {
        own.async { [self] in
            guard let monitor else { return answer(VZError(.invalidVirtualMachineState)) }
            monitor.run(command)
            answer(nil)
        }
    }

    private func launch() throws {
        let line = line
        if line.directory == scratch {
            try FileManager.default.createDirectory(atPath: scratch, withIntermediateDirectories: true)
        }
        for (name, socket, arguments) in line.helpers() {
            let helper = try Program(name, arguments, output: nil, log: "\(line.directory)/\(name).err")
            helpers.append(helper)
            guard helper.hasMade(socket) else {
                throw VZError(.internalError, "\(name) does not start: \(helper.lastWords)")
            }
        }
        guard let door = UnixSocket.listen(line.monitor) else { throw VZError(.internalError, "no room for a socket") }
        let qemu = try Program(
            line.emulator, try line.arguments(), output: line.console, log: "\(line.directory)/qemu.err")
        self.qemu = qemu
        guard let connection = door.accept(within: 30) else {
            throw VZError(.internalError, "QEMU does not start: \(qemu.lastWords)")
        }
        let monitor = Monitor(connection)
        self.monitor = monitor
        monitor.run("qmp_capabilities")
        // QEMU is the guest. When a helper goes, the guest cannot go on; after a power-off helpers may go first.
        let own = own
        qemu.onEnd { [weak self] in own.async { [weak self] in self?.over(since: qemu, monitor.verdict(qemu)) } }
        for helper in helpers {
            helper.onEnd { [weak self] in
                own.asyncAfter(deadline: .now() + 2) { [weak self] in
                    self?.over(since: qemu, VZError(.internalError, "\(helper.name) ended: \(helper.lastWords)"))
                }
            }
        }
    }

    private func over(since qemu: Program, _ error: VZError?) {
        guard self.qemu === qemu else { return }
        let tell = ended
        clear()
        tell?(error)
    }

    private func clear() {
        ended = nil
        for door in doors.values { door.cancel() }
        doors = [:]
        qemu?.kill()
        for helper in helpers { helper.kill() }
        (qemu, monitor, helpers) = (nil, nil, [])
        try? FileManager.default.removeItem(atPath: scratch)
    }
}

/// QEMU's monitor: commands go out, and the reasons of shutdowns are kept.
final class Monitor: @unchecked Sendable {
    private let socket: UnixSocket
    private let lock = NSLock()
    private var cause: String?
    private let read = DispatchGroup()

    init(_ socket: UnixSocket) {
        self.socket = socket
        read.enter()
        Thread.detachNewThread { [self] in
            while let line = socket.line() {
                let message = try? JSONSerialization.jsonObject(with: line) as? [String: Any]
                guard message?["event"] as? String == "SHUTDOWN" else { continue }
                let data = message?["data"] as? [String: Any]
                lock.withLock { cause = data?["reason"] as? String }
            }
            read.leave()
        }
    }

    func run(_ command: String) { socket.write("{\"execute\": \"\(command)\"}\n") }

    /// Why QEMU ended: nil when the guest powered off.
    func verdict(_ qemu: Program) -> VZError? {
        _ = read.wait(timeout: .now() + 2)
        switch lock.withLock({ cause }) {
        case "guest-shutdown": return nil
        case let cause?: return VZError(.internalError, "QEMU says \(cause).")
        case nil: return VZError(.internalError, "QEMU ended: \(qemu.lastWords)")
        }
    }
}
