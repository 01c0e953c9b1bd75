import Foundation

/// The answer to one request, given at most once. Releasing it unanswered answers "dropped"; a second answer is
/// ignored.
final class Reply: @unchecked Sendable {
    private let op: UInt64
    private var sink: EventSink?

    init(_ op: UInt64, _ sink: EventSink) { (self.op, self.sink) = (op, sink) }
    deinit { failed(fault(.dropped, "the machine was dropped before it answered")) }

    func done() { take()?.done(op) }
    func connected(_ kept: (id: UInt64, descriptor: Int32)) { take()?.connected(op, kept.id, kept.descriptor) }
    func failed(_ error: any Error) { if let sink = take() { ErrorInfo(error).to(sink) { $0.failed(op, $1, $2, $3) } } }

    // The framework's two kinds of completion handlers.
    func error(_ error: (any Error)?) { if let error { failed(error) } else { done() } }
    func result(_ result: Result<Void, any Error>) {
        switch result { case .success: done(); case .failure(let error): failed(error) }
    }

    private func take() -> EventSink? { defer { sink = nil }; return sink }
}

/// An error in the form that Rust receives, with its underlying errors: some faults can be recognised only by them.
struct ErrorInfo {
    let code: Int64, domain: String, text: String

    init(_ error: any Error) {
        let top = error as NSError
        let under = top.userInfo[NSUnderlyingErrorKey].map { "\($0)" }
        let parts = [top.localizedDescription, top.localizedFailureReason, under].compactMap { $0 }
        (code, domain, text) = (Int64(top.code), top.domain, parts.joined(separator: " "))
    }

    func to(_ sink: EventSink, _ send: (EventSink, Int64, String, String) -> Void) { send(sink, code, domain, text) }
}
