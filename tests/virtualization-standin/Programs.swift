import Foundation

/// A child process which dies with this one.
final class Program: @unchecked Sendable {
    let name: String
    private let process = Process()
    private let log: String
    private let gone = DispatchSemaphore(value: 0)
    private let lock = NSLock()
    private var ended = false
    private var onEnd: (@Sendable () -> Void)?

    /// Found on `PATH`. Its errors are written to `log`.
    init(_ name: String, _ arguments: [String], output: FileHandle?, log: String) throws {
        self.name = name
        self.log = log
        let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
        func find(_ program: String) throws -> String {
            let found = path.split(separator: ":").map { "\($0)/\(program)" }
                .first { FileManager.default.isExecutableFile(atPath: $0) }
            guard let found else { throw VZError(.internalError, "the program \(program) is not on PATH") }
            return found
        }
        process.executableURL = URL(fileURLWithPath: try find("setpriv"))
        process.arguments = ["--pdeathsig", "KILL", "--", try find(name)] + arguments
        process.standardInput = FileHandle.nullDevice
        // A handle of its own, closed below: `Process` would keep one longer than the program lives.
        let console = output.map { fcntl($0.fileDescriptor, F_DUPFD_CLOEXEC, 0) } ?? -1
        defer { if console >= 0 { close(console) } }
        process.standardOutput = console >= 0 ? FileHandle(fileDescriptor: console) : FileHandle.nullDevice
        _ = FileManager.default.createFile(atPath: log, contents: nil, attributes: [.posixPermissions: 0o600])
        process.standardError = FileHandle(forWritingAtPath: log) ?? FileHandle.nullDevice
        process.terminationHandler = { [weak self] _ in self?.hasEnded() }
        try Nursery.shared.run(process)
    }

    func onEnd(_ work: @escaping @Sendable () -> Void) {
        let already = lock.withLock {
            onEnd = work
            return ended
        }
        if already { work() }
    }

    /// Waits until it has made its socket; false when it ended or takes ten seconds.
    func hasMade(_ socket: String) -> Bool {
        for _ in 0..<10_000 {
            if access(socket, F_OK) == 0 { return true }
            if lock.withLock({ ended }) { return false }
            usleep(1000)
        }
        return false
    }

    /// Ends it; when this returns it is gone.
    func kill() {
        lock.withLock { onEnd = nil }
        if lock.withLock({ ended }) { return }
        Foundation.kill(process.processIdentifier, SIGKILL)
        _ = gone.wait(timeout: .now() + 10)
    }

    var lastWords: String {
        let text = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
        return text.split(separator: "\n").suffix(10).joined(separator: "; ")
    }

    private func hasEnded() {
        let work = lock.withLock {
            ended = true
            return onEnd
        }
        gone.signal()
        work?()
    }
}

/// The one thread that starts programs. "Dies with its parent" means, to Linux, with the thread that started it, and the
/// threads of dispatch queues come and go.
private final class Nursery: @unchecked Sendable {
    static let shared = Nursery()
    private let ready = DispatchSemaphore(value: 0)
    private let lock = NSLock()
    private var jobs: [() -> Void] = []

    private init() {
        Thread.detachNewThread { [self] in
            while true {
                ready.wait()
                lock.withLock { jobs.removeFirst() }()
            }
        }
    }

    func run(_ process: Process) throws {
        let done = DispatchSemaphore(value: 0)
        let process = Carried(process)
        nonisolated(unsafe) var failure: (any Error)?
        lock.withLock {
            jobs.append {
                do { try process.value.run() } catch { failure = error }
                done.signal()
            }
        }
        ready.signal()
        done.wait()
        if let failure { throw failure }
    }
}
