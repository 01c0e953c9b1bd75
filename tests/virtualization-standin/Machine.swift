import Dispatch
import Foundation

public protocol VZVirtualMachineDelegate: NSObjectProtocol {
    func guestDidStop(_ virtualMachine: VZVirtualMachine)
    func virtualMachine(_ virtualMachine: VZVirtualMachine, didStopWithError error: any Error)
    func virtualMachine(
        _ virtualMachine: VZVirtualMachine, networkDevice: VZNetworkDevice,
        attachmentWasDisconnectedWithError error: any Error)
}

/// What runs a machine. Each function may be called on any thread and answers once, on any thread; nothing of an engine
/// lives on after `end`.
protocol Engine: AnyObject {
    /// `ended` is told once if the guest ends by itself: nil when it powered off.
    func start(_ ended: @escaping @Sendable (VZError?) -> Void, _ answer: @escaping @Sendable (VZError?) -> Void)
    func pressPowerButton()
    func pause(_ answer: @escaping @Sendable (VZError?) -> Void)
    func resume(_ answer: @escaping @Sendable (VZError?) -> Void)
    func save(to url: URL, _ answer: @escaping @Sendable (VZError?) -> Void)
    func restore(from url: URL, _ answer: @escaping @Sendable (VZError?) -> Void)
    func dial(_ port: UInt32, _ answer: @escaping @Sendable (Result<Int32, any Error>) -> Void)
    /// Descriptors of the guest's connections to this port; nil closes it.
    func hear(_ port: UInt32, _ arrived: (@Sendable (Int32) -> Void)?)
    func end()
}

open class VZVirtualMachine: NSObject, @unchecked Sendable {
    public enum State: Int, Sendable {
        case stopped, running, paused, error, starting, pausing, resuming, stopping, saving, restoring
    }

    private let queue: DispatchQueue
    let engine: any Engine
    private let sockets: [VZSocketDevice]
    private var now = State.stopped
    private weak var observer: (any VZVirtualMachineDelegate)?

    public init(configuration: VZVirtualMachineConfiguration, queue: DispatchQueue) {
        let imagined = Hooks.shared.with { hooks in
            hooks.machines += 1
            return hooks.imagine
        }
        let engine: any Engine = imagined ? Imagined() : Emulated(configuration)
        self.queue = queue
        self.engine = engine
        mark(queue)
        sockets = configuration.socketDevices.map { _ in VZVirtioSocketDevice(queue, engine) }
        super.init()
        Hooks.shared.with { $0.latest = self }
    }

    deinit {
        onItsQueue(queue)
        engine.end()
        Hooks.shared.with { $0.machines -= 1 }
    }

    open class var isSupported: Bool { true }
    open var state: State { onItsQueue(queue); return now }
    open var socketDevices: [VZSocketDevice] { onItsQueue(queue); return sockets }
    open var delegate: (any VZVirtualMachineDelegate)? {
        get { onItsQueue(queue); return observer }
        set { onItsQueue(queue); observer = newValue }
    }

    open func start(completionHandler: @escaping (Result<Void, any Error>) -> Void) {
        step([.stopped, .error], .starting, .running, asError(completionHandler)) { answer in
            engine.start({ [weak self, queue] error in queue.async { [weak self] in self?.guestEnded(error) } }, answer)
        }
    }
    open func pause(completionHandler: @escaping (Result<Void, any Error>) -> Void) {
        step([.running], .pausing, .paused, asError(completionHandler), engine.pause)
    }
    open func resume(completionHandler: @escaping (Result<Void, any Error>) -> Void) {
        step([.paused], .resuming, .running, asError(completionHandler), engine.resume)
    }
    open func stop(completionHandler: @escaping ((any Error)?) -> Void) {
        step([.running, .paused], .stopping, .stopped, completionHandler) { [engine] answer in
            engine.end()
            answer(nil)
        }
    }
    open func saveMachineStateTo(url: URL, completionHandler: @escaping ((any Error)?) -> Void) {
        step([.paused], .saving, .paused, completionHandler) { [engine] in engine.save(to: url, $0) }
    }
    open func restoreMachineStateFrom(url: URL, completionHandler: @escaping ((any Error)?) -> Void) {
        step([.stopped], .restoring, .paused, completionHandler) { [engine] in engine.restore(from: url, $0) }
    }
    open func requestStop() throws {
        onItsQueue(queue)
        guard now == .running else { throw VZError(.invalidVirtualMachineState) }
        engine.pressPowerButton()
    }

    /// From a state of `from`, through `via` while `work` goes on, to `to`; back where it began if that fails.
    private func step(
        _ from: [State], _ via: State, _ to: State, _ completion: @escaping ((any Error)?) -> Void,
        _ work: (@escaping @Sendable (VZError?) -> Void) -> Void
    ) {
        onItsQueue(queue)
        let completion = Carried(completion)
        guard from.contains(now) else {
            return queue.async { completion.value(VZError(.invalidVirtualMachineStateTransition)) }
        }
        let back = now, queue = queue
        now = via
        // Whoever holds the machine for a moment elsewhere may be its last owner there: so only its queue does.
        work { [weak self] error in
            queue.async { [weak self] in
                // A machine that is gone answers nobody: the handler is dropped.
                guard let self else { return }
                if now == via { now = error == nil ? to : back }
                completion.value(error)
            }
        }
    }

    private func guestEnded(_ error: VZError?) {
        guard now != .stopped, now != .stopping else { return }
        now = error == nil ? .stopped : .error
        engine.end()
        if let error { observer?.virtualMachine(self, didStopWithError: error) } else { observer?.guestDidStop(self) }
    }

    /// For tests: the network goes.
    func loseNetwork() {
        queue.async { [weak self] in
            guard let self else { return }
            let error = VZError(.networkError, "vmnet ended.")
            observer?.virtualMachine(self, networkDevice: VZNetworkDevice(), attachmentWasDisconnectedWithError: error)
        }
    }

    private func asError(_ handler: @escaping (Result<Void, any Error>) -> Void) -> ((any Error)?) -> Void {
        { handler($0.map(Result.failure) ?? .success(())) }
    }
}
