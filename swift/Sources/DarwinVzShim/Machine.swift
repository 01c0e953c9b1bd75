import Foundation
import Virtualization

/// One virtual machine, touched on `queue` alone. No verb waits: each is answered through the sink. Nothing that the
/// framework calls back owns this object, so Rust's handle alone decides how long it lives.
public final class ShimMachine: NSObject, @unchecked Sendable {
    private let queue = DispatchQueue(label: "darwin-vz-nix.machine")
    private let sink: EventSink
    private let estate: Estate

    fileprivate init(_ configuration: VZVirtualMachineConfiguration, _ sink: EventSink) {
        self.sink = sink
        estate = Estate(configuration, queue)
        super.init()
        queue.sync { estate.machine?.delegate = self }
    }

    deinit { queue.async { [estate, sink] in withExtendedLifetime(sink) { estate.settle() } } }

    func start(op: UInt64) { perform(op) { $0.start(completionHandler: $1.result) } }
    func stop(op: UInt64) { perform(op) { $0.stop(completionHandler: $1.error) } }
    func pause(op: UInt64) { perform(op) { $0.pause(completionHandler: $1.result) } }
    func resume(op: UInt64) { perform(op) { $0.resume(completionHandler: $1.result) } }
    func requestStop(op: UInt64) { perform(op) { try $0.requestStop(); $1.done() } }

    func canSave(op: UInt64) {
        perform(op) { [estate] in try estate.configuration.validateSaveRestoreSupport(); $1.done() }
    }

    func save(op: UInt64, path: RustString) {
        perform(op) { [url = file(path.toString())] in
            $0.saveMachineStateTo(url: url, completionHandler: $1.error)
        }
    }

    func restore(op: UInt64, path: RustString) {
        perform(op) { [url = file(path.toString())] in
            $0.restoreMachineStateFrom(url: url, completionHandler: $1.error)
        }
    }

    func connect(op: UInt64, port: UInt32) {
        perform(op) { [estate] machine, reply in
            try machine.sockets().connect(toPort: port) { result in
                do { try reply.connected(estate.keep(result.get())) } catch { reply.failed(error) }
            }
        }
    }

    func listen(op: UInt64, port: UInt32) {
        perform(op) { [self] machine, reply in
            let listener = VZVirtioSocketListener()
            listener.delegate = self
            try machine.sockets().setSocketListener(listener, forPort: port)
            estate.listeners[port] = listener
            reply.done()
        }
    }

    func unlisten(op: UInt64, port: UInt32) {
        perform(op) { [estate] in
            try $0.sockets().removeSocketListener(forPort: port)
            estate.listeners[port] = nil
            $1.done()
        }
    }

    /// Rust is done with this connection.
    func release(connection: UInt64) {
        queue.async { [estate] in estate.connections.removeValue(forKey: connection)?.close() }
    }

    private func perform(_ op: UInt64, _ work: @escaping (VZVirtualMachine, Reply) throws -> Void) {
        let reply = Reply(op, sink)
        queue.async { [estate] in
            guard let machine = estate.machine else { return }
            do { try work(machine, reply) } catch { reply.failed(error) }
        }
    }
}

extension ShimMachine: VZVirtualMachineDelegate, VZVirtioSocketListenerDelegate {
    public func guestDidStop(_ virtualMachine: VZVirtualMachine) { sink.stopped() }
    public func virtualMachine(_ virtualMachine: VZVirtualMachine, didStopWithError error: any Error) {
        Told(error).to(sink) { $0.crashed($1, $2, $3) }
    }

    public func virtualMachine(
        _ virtualMachine: VZVirtualMachine, networkDevice: VZNetworkDevice,
        attachmentWasDisconnectedWithError error: any Error
    ) {
        Told(error).to(sink) { $0.networkLost($1, $2, $3) }
    }

    public func listener(
        _ listener: VZVirtioSocketListener, shouldAcceptNewConnection connection: VZVirtioSocketConnection,
        from socketDevice: VZVirtioSocketDevice
    ) -> Bool {
        guard let (id, descriptor) = try? estate.keep(connection) else { return false }
        sink.accepted(connection.destinationPort, id, descriptor)
        return true
    }
}

/// A machine's objects. They go on its queue, where they live, and the sink after them: so Rust knows that all is gone.
private final class Estate: @unchecked Sendable {
    let configuration: VZVirtualMachineConfiguration
    var machine: VZVirtualMachine?
    var connections: [UInt64: VZVirtioSocketConnection] = [:]
    var listeners: [UInt32: VZVirtioSocketListener] = [:]
    private var latest: UInt64 = 0

    init(_ configuration: VZVirtualMachineConfiguration, _ queue: DispatchQueue) {
        self.configuration = configuration
        machine = VZVirtualMachine(configuration: configuration, queue: queue)
    }

    /// A descriptor for Rust; the connection closes its own.
    func keep(_ connection: VZVirtioSocketConnection) throws -> (UInt64, Int32) {
        let descriptor = try duplicate(connection.fileDescriptor)
        latest += 1
        connections[latest] = connection
        return (latest, descriptor)
    }

    func settle() { (connections, listeners, machine) = ([:], [:], nil) }
}

private extension VZVirtualMachine {
    func sockets() throws -> VZVirtioSocketDevice {
        if let device = socketDevices.first as? VZVirtioSocketDevice { return device }
        throw fault(.spec, "no socket device")
    }
}

func shimMachine(spec: RustString, sink: EventSink) throws(ShimError) -> ShimMachine {
    do {
        let spec = try JSONDecoder().decode(MachineSpec.self, from: Data(spec.toString().utf8))
        return ShimMachine(try spec.configuration(), sink)
    } catch {
        let told = Told(error)
        throw .Failed(told.code, told.domain.intoRustString(), told.text.intoRustString())
    }
}

extension ShimError: Error, @unchecked Sendable {}
