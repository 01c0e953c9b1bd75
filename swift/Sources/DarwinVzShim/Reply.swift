import Foundation

/// The answer to one request, given once: to let go of it is to answer "dropped", and a second answer is none.
final class Reply: @unchecked Sendable {
    private let op: UInt64
    private var sink: EventSink?

    init(_ op: UInt64, _ sink: EventSink) { (self.op, self.sink) = (op, sink) }
    deinit { failed(fault(.dropped, "the machine was dropped before it answered")) }

    func done() { take()?.done(op) }
    func connected(_ kept: (id: UInt64, descriptor: Int32)) { take()?.connected(op, kept.id, kept.descriptor) }
    func failed(_ error: any Error) { if let sink = take() { Told(error).to(sink) { $0.failed(op, $1, $2, $3) } } }

    // The framework's two forms of completion.
    func error(_ error: (any Error)?) { if let error { failed(error) } else { done() } }
    func result(_ result: Result<Void, any Error>) {
        switch result { case .success: done(); case .failure(let error): failed(error) }
    }

    private func take() -> EventSink? { defer { sink = nil }; return sink }
}

/// An error as it crosses to Rust, with the reasons beneath it, in which alone some faults can be told apart.
struct Told {
    let code: Int64, domain: String, text: String

    init(_ error: any Error) {
        let top = error as NSError
        let under = top.userInfo[NSUnderlyingErrorKey].map { "\($0)" }
        let parts = [top.localizedDescription, top.localizedFailureReason, under].compactMap { $0 }
        (code, domain, text) = (Int64(top.code), top.domain, parts.joined(separator: " "))
    }

    func to(_ sink: EventSink, _ tell: (EventSink, Int64, String, String) -> Void) { tell(sink, code, domain, text) }
}
