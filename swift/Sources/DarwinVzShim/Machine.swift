import Foundation
import Virtualization

/// One virtual machine, accessed only on `queue`. No method waits: each reports its result through the sink. No object
/// that the framework calls back owns this one, so Rust's handle alone decides its lifetime.
public final class ShimMachine: NSObject, @unchecked Sendable {
    private let queue = DispatchQueue(label: "darwin-vz-nix.machine")
    private let sink: EventSink
    private let resources: VirtualMachineResources

    fileprivate init(_ configuration: VZVirtualMachineConfiguration, _ sink: EventSink) {
        self.sink = sink
        resources = VirtualMachineResources(configuration, queue)
        super.init()
        queue.sync { resources.machine?.delegate = self }
    }

    deinit { queue.async { [resources, sink] in withExtendedLifetime(sink) { resources.release() } } }

    func start(op: UInt64) { perform(op) { $0.start(completionHandler: $1.result) } }
    func stop(op: UInt64) { perform(op) { $0.stop(completionHandler: $1.error) } }
    func pause(op: UInt64) { perform(op) { $0.pause(completionHandler: $1.result) } }
    func resume(op: UInt64) { perform(op) { $0.resume(completionHandler: $1.result) } }
    func requestStop(op: UInt64) { perform(op) { try $0.requestStop(); $1.done() } }

    func canSave(op: UInt64) {
        perform(op) { [resources] in try resources.configuration.validateSaveRestoreSupport(); $1.done() }
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
        perform(op) { [resources] machine, reply in
            try machine.sockets().connect(toPort: port) { result in
                do { try reply.connected(resources.keep(result.get())) } catch { reply.failed(error) }
            }
        }
    }

    func listen(op: UInt64, port: UInt32) {
        perform(op) { [self] machine, reply in
            let listener = VZVirtioSocketListener()
            listener.delegate = self
            try machine.sockets().setSocketListener(listener, forPort: port)
            resources.listeners[port] = listener
            reply.done()
        }
    }

    func unlisten(op: UInt64, port: UInt32) {
        perform(op) { [resources] in
            try $0.sockets().removeSocketListener(forPort: port)
            resources.listeners[port] = nil
            $1.done()
        }
    }

    /// Rust no longer needs this connection.
    func release(connection: UInt64) {
        queue.async { [resources] in resources.connections.removeValue(forKey: connection)?.close() }
    }

    private func perform(_ op: UInt64, _ work: @escaping (VZVirtualMachine, Reply) throws -> Void) {
        let reply = Reply(op, sink)
        queue.async { [resources] in
            guard let machine = resources.machine else { return }
            do { try work(machine, reply) } catch { reply.failed(error) }
        }
    }
}

extension ShimMachine: VZVirtualMachineDelegate, VZVirtioSocketListenerDelegate {
    public func guestDidStop(_ virtualMachine: VZVirtualMachine) { sink.stopped() }
    public func virtualMachine(_ virtualMachine: VZVirtualMachine, didStopWithError error: any Error) {
        ErrorInfo(error).to(sink) { $0.crashed($1, $2, $3) }
    }

    public func virtualMachine(
        _ virtualMachine: VZVirtualMachine, networkDevice: VZNetworkDevice,
        attachmentWasDisconnectedWithError error: any Error
    ) {
        ErrorInfo(error).to(sink) { $0.networkLost($1, $2, $3) }
    }

    public func listener(
        _ listener: VZVirtioSocketListener, shouldAcceptNewConnection connection: VZVirtioSocketConnection,
        from socketDevice: VZVirtioSocketDevice
    ) -> Bool {
        guard let (id, descriptor) = try? resources.keep(connection) else { return false }
        sink.accepted(connection.destinationPort, id, descriptor)
        return true
    }
}

/// The framework's objects of a machine. They are released on its queue, and the sink after them, so Rust knows when
/// all are gone.
private final class VirtualMachineResources: @unchecked Sendable {
    let configuration: VZVirtualMachineConfiguration
    var machine: VZVirtualMachine?
    var connections: [UInt64: VZVirtioSocketConnection] = [:]
    var listeners: [UInt32: VZVirtioSocketListener] = [:]
    private var latest: UInt64 = 0

    init(_ configuration: VZVirtualMachineConfiguration, _ queue: DispatchQueue) {
        self.configuration = configuration
        machine = VZVirtualMachine(configuration: configuration, queue: queue)
    }

    /// A duplicate descriptor for Rust; the connection closes its own.
    func keep(_ connection: VZVirtioSocketConnection) throws -> (UInt64, Int32) {
        let descriptor = try duplicate(connection.fileDescriptor)
        latest += 1
        connections[latest] = connection
        return (latest, descriptor)
    }

    func release() { (connections, listeners, machine) = ([:], [:], nil) }
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
        let info = ErrorInfo(error)
        throw .Failed(info.code, info.domain.intoRustString(), info.text.intoRustString())
    }
}

extension ShimError: Error, @unchecked Sendable {}
