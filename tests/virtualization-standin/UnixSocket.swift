import Foundation

/// A stream socket in the file system; closes its descriptor.
final class UnixSocket: @unchecked Sendable {
    private(set) var descriptor: Int32
    private let path: String
    private var buffer = Data()

    private init(_ descriptor: Int32, _ path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    static func connect(_ path: String) -> UnixSocket? { make(path) { Foundation.connect($0, $1, $2) } }

    static func listen(_ path: String) -> UnixSocket? {
        Foundation.unlink(path)
        return make(path) { bind($0, $1, $2) == 0 ? Foundation.listen($0, 128) : -1 }
    }

    private static func make(
        _ path: String, _ work: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> UnixSocket? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return nil }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let socket = UnixSocket(
            Foundation.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0), path)
        guard socket.descriptor >= 0 else { return nil }
        let made = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                work(socket.descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        return made == 0 ? socket : nil
    }

    func accept(within seconds: Int32) -> UnixSocket? {
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, seconds * 1000) == 1 else { return nil }
        let accepted = Foundation.accept(descriptor, nil, nil)
        guard accepted >= 0 else { return nil }
        _ = fcntl(accepted, F_SETFD, FD_CLOEXEC)
        return UnixSocket(accepted, path)
    }

    func unlink() { Foundation.unlink(path) }

    /// The descriptor, which from now on is the caller's.
    func take() -> Int32 {
        defer { descriptor = -1 }
        return descriptor
    }

    func write(_ text: String) { _ = text.withCString { send(descriptor, $0, strlen($0), Int32(MSG_NOSIGNAL)) } }

    /// The next line; nil at the end.
    func line() -> Data? {
        while true {
            if let end = buffer.firstIndex(of: UInt8(ascii: "\n")) {
                defer { buffer = Data(buffer[(end + 1)...]) }
                return Data(buffer[..<end])
            }
            var chunk = [UInt8](repeating: 0, count: 4096)
            let n = recv(descriptor, &chunk, chunk.count, 0)
            guard n > 0 else { return nil }
            buffer.append(contentsOf: chunk[..<n])
        }
    }

    /// vhost-device-vsock's greeting: after `OK` the stream is the guest's.
    func asksFor(port: UInt32) -> Bool {
        write("CONNECT \(port)\n")
        var answer: [UInt8] = []
        var byte: UInt8 = 0
        while answer.count < 32, byte != UInt8(ascii: "\n") {
            var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&waiting, 1, 10_000) == 1, recv(descriptor, &byte, 1, 0) == 1 else { return false }
            answer.append(byte)
        }
        return answer.starts(with: Array("OK ".utf8))
    }
}
