import Dispatch
import Foundation

open class VZSocketDevice: NSObject {}

open class VZVirtioSocketConnection: NSObject {
    public let sourcePort: UInt32
    public let destinationPort: UInt32
    public private(set) var fileDescriptor: Int32

    init(_ descriptor: Int32, to port: UInt32) {
        fileDescriptor = descriptor
        sourcePort = 1024
        destinationPort = port
        super.init()
        Hooks.shared.with { $0.connections += 1 }
    }

    open func close() {
        if fileDescriptor >= 0 { Foundation.close(fileDescriptor) }
        fileDescriptor = -1
    }

    deinit {
        close()
        Hooks.shared.with { $0.connections -= 1 }
    }
}

public protocol VZVirtioSocketListenerDelegate: NSObjectProtocol {
    func listener(
        _ listener: VZVirtioSocketListener, shouldAcceptNewConnection connection: VZVirtioSocketConnection,
        from socketDevice: VZVirtioSocketDevice) -> Bool
}

open class VZVirtioSocketListener: NSObject {
    open weak var delegate: (any VZVirtioSocketListenerDelegate)?
    public override init() {}
}

open class VZVirtioSocketDevice: VZSocketDevice, @unchecked Sendable {
    private let queue: DispatchQueue
    private let engine: any Engine
    private var listeners: [UInt32: VZVirtioSocketListener] = [:]

    init(_ queue: DispatchQueue, _ engine: any Engine) {
        self.queue = queue
        self.engine = engine
    }

    open func connect(
        toPort port: UInt32, completionHandler: @escaping (Result<VZVirtioSocketConnection, any Error>) -> Void
    ) {
        onItsQueue(queue)
        let queue = queue, answer = Carried(completionHandler)
        engine.dial(port) { result in
            let result = result.map { Carried(VZVirtioSocketConnection($0, to: port)) }
            queue.async { answer.value(result.map(\.value)) }
        }
    }

    open func setSocketListener(_ listener: VZVirtioSocketListener, forPort port: UInt32) {
        onItsQueue(queue)
        listeners[port] = listener
        engine.hear(port) { [weak self, queue] descriptor in
            queue.async { [weak self] in
                let connection = VZVirtioSocketConnection(descriptor, to: port)
                guard let self, let listener = listeners[port], let delegate = listener.delegate,
                      delegate.listener(listener, shouldAcceptNewConnection: connection, from: self)
                else { return connection.close() }
            }
        }
    }

    open func removeSocketListener(forPort port: UInt32) {
        onItsQueue(queue)
        listeners[port] = nil
        engine.hear(port, nil)
    }
}

private let queueMark = DispatchSpecificKey<ObjectIdentifier>()

/// Makes a queue known to `onItsQueue`.
func mark(_ queue: DispatchQueue) { queue.setSpecific(key: queueMark, value: ObjectIdentifier(queue)) }

/// Apple's rule: a machine and what belongs to it are used on the machine's queue only. Here breaking it is fatal.
func onItsQueue(_ queue: DispatchQueue) {
    precondition(
        DispatchQueue.getSpecific(key: queueMark) == ObjectIdentifier(queue),
        "a virtual machine was used, or let go, off its queue")
}
