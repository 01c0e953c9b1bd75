//! The host's end of the agent protocol: waits for the guest's READY, then sends requests and returns the answers by
//! id.
//!
//! One task serves the guest's agent while the guest lives. It accepts only connections that present this boot's token,
//! since any program in the guest can dial the port. Others wait in [`Unauthenticated`] and block nothing. A new
//! connection of the agent replaces the old one.

use dvn_hypervisor::{
    GuestAgent, GuestListener, GuestStream, Unauthenticated,
    agent::{answer_timeout, no_answer},
};
use dvn_protocol::{
    VERSION,
    messages::{Answer, Ask, BootPhase, DataDisk, FromAgent, MAX_LINE, Request},
};
use dvn_types::{Kind, Report};
use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::codec::{Framed, LinesCodec};

/// Time limit for a connection's READY.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for the agent to read a request. It reads them as they come, and one fits into the connection's buffer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to the agent's port that have not said READY yet.
const MAX_UNAUTHENTICATED: usize = 64;

/// Requests that may wait for the agent at once.
const QUEUE: usize = 16;

type Lines = Framed<GuestStream, LinesCodec>;
type Question = (Ask, oneshot::Sender<Result<Answer, Report>>);

/// A guest's agent. Cheap to clone. It outlives its guest; every request then fails.
#[derive(Clone, Debug)]
pub struct Agent {
    questions: mpsc::Sender<Question>,
}

/// The contents of the agent's READY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Kernel release.
    pub kernel: String,
    /// Phases of the guest's boot, in milliseconds of its own clock.
    pub phases: Vec<BootPhase>,
    /// The state of the data disk.
    pub data_disk: DataDisk,
    /// Whether the guest builds on the host's store.
    pub host_store: bool,
}

impl Agent {
    /// Waits for the agent that presents `token`. Fails if the guest ends first or speaks another protocol version.
    pub async fn await_ready(listener: GuestListener, token: String) -> Result<(Agent, Readiness), Report> {
        let mut port = Port::new(listener, token);
        let Some(arrived) = port.agent().await else {
            return Err(Report::new(Kind::Boot, "the guest ended before its agent was ready"));
        };
        let (lines, readiness) = arrived?;
        let (questions, asked) = mpsc::channel(QUEUE);
        tokio::spawn(serve(lines, port, asked));
        Ok((Agent { questions }, readiness))
    }
}

impl GuestAgent for Agent {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Report>> {
        Box::pin(self.ask_in_time(ask))
    }
}

impl Agent {
    async fn ask_in_time(&self, ask: Ask) -> Result<Answer, Report> {
        let time_limit = answer_timeout(&ask);
        let gone = || Report::new(Kind::Guest, "the guest's agent does not answer any more");
        let (reply, answer) = oneshot::channel();
        self.questions.send((ask, reply)).await.map_err(|_| gone())?;
        match timeout(time_limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(no_answer(time_limit)),
        }
    }
}

/// A connection of the agent with its READY, or an error if this program doesn't speak its protocol version.
type Arrival = Result<(Lines, Readiness), Report>;

/// The port that the agent dials.
struct Port {
    listener: GuestListener,
    token: Arc<str>,
    unauthenticated: Unauthenticated<Arrival>,
}

impl Port {
    fn new(listener: GuestListener, token: String) -> Self {
        Port {
            listener,
            token: token.into(),
            unauthenticated: Unauthenticated::new(MAX_UNAUTHENTICATED, READY_TIMEOUT),
        }
    }

    /// The agent's next connection; `None` when the guest is gone. Cancel-safe.
    async fn agent(&mut self) -> Option<Arrival> {
        loop {
            tokio::select! {
                stream = self.listener.accept() => {
                    let (stream, token) = (stream?, Arc::clone(&self.token));
                    self.unauthenticated.add(async move { greet(stream, &token).await });
                }
                Some(authenticated) = self.unauthenticated.next() => match authenticated {
                    Some(agent) => return Some(agent),
                    None => tracing::debug!("closed a connection to the agent's port that was not from the agent"),
                }
            }
        }
    }
}

/// Reads a connection's first line. `None`: not the agent.
async fn greet(stream: GuestStream, token: &str) -> Option<Arrival> {
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
    let line = lines.next().await?.ok()?;
    match serde_json::from_str(&line).ok()? {
        FromAgent::Ready { version, token: theirs, .. } if theirs == token && version != VERSION => {
            let message = format!("the guest's agent speaks protocol {version}, and this program speaks {VERSION}");
            Some(Err(Report::new(Kind::Bundle, message).hint("use the bundle of the same release as this program")))
        }
        FromAgent::Ready { token: theirs, kernel, phases, data_disk, host_store, .. } if theirs == token => {
            Some(Ok((lines, Readiness { kernel, phases, data_disk, host_store })))
        }
        _ => None,
    }
}

async fn serve(lines: Lines, mut port: Port, mut asked: mpsc::Receiver<Question>) {
    let mut current = Some(lines);
    let mut waiting: HashMap<u64, oneshot::Sender<Result<Answer, Report>>> = HashMap::new();
    let mut next_id = 0;
    loop {
        tokio::select! {
            question = asked.recv() => {
                let Some((ask, reply)) = question else { return };
                let Some(lines) = &mut current else { continue };
                next_id += 1;
                // Numbers and plain enums always serialise; the guest would skip an empty line.
                let line = serde_json::to_string(&Request { id: next_id, ask }).unwrap_or_default();
                waiting.retain(|_, reply| !reply.is_closed());
                waiting.insert(next_id, reply);
                if !matches!(timeout(SEND_TIMEOUT, lines.send(line)).await, Ok(Ok(()))) {
                    current = None;
                    waiting.clear();
                }
            }
            line = async { match &mut current { Some(lines) => lines.next().await, None => std::future::pending().await } } => {
                match line.and_then(Result::ok).map(|line| serde_json::from_str(&line)) {
                    Some(Ok(FromAgent::Reply { id, result })) => if let Some(reply) = waiting.remove(&id) {
                        let _ = reply.send(result.map_err(|why| Report::new(Kind::Guest, format!("the guest's agent could not do it: {why}"))));
                    },
                    Some(Ok(FromAgent::Ready { .. })) => {}
                    // Closed, too long, or malformed: this connection is unusable.
                    Some(Err(_)) | None => {
                        current = None;
                        waiting.clear();
                    }
                }
            }
            arrived = port.agent() => {
                let Some(arrived) = arrived else { return };
                if let Ok((lines, _)) = arrived {
                    current = Some(lines);
                    waiting.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

    /// Longer than the time limit of any request.
    const WORK: Duration = Duration::from_secs(121);

    struct Device {
        dial: mpsc::Sender<GuestStream>,
    }

    fn port() -> (Device, GuestListener) {
        let (dial, incoming) = mpsc::channel(8);
        (Device { dial }, GuestListener::new(incoming, None))
    }

    impl Device {
        async fn dial(&self, first: &str) -> BufReader<DuplexStream> {
            let mut ours = self.dial_silently(256 * 1024).await;
            let _ = ours.write_all(format!("{first}\n").as_bytes()).await;
            ours
        }

        async fn dial_silently(&self, buffer: usize) -> BufReader<DuplexStream> {
            let (ours, theirs) = tokio::io::duplex(buffer);
            self.dial.send(Box::new(theirs)).await.unwrap();
            BufReader::new(ours)
        }
    }

    fn ready(token: &str, version: u32) -> String {
        serde_json::to_string(&FromAgent::Ready {
            version,
            token: token.into(),
            kernel: "6.1".into(),
            phases: vec![BootPhase { name: "kernel".into(), at_ms: 1200 }],
            data_disk: DataDisk::Kept,
            host_store: false,
        })
        .unwrap()
    }

    async fn answer(agent: &mut BufReader<DuplexStream>, result: Result<Answer, String>) {
        let mut line = String::new();
        agent.read_line(&mut line).await.unwrap();
        let id = serde_json::from_str::<Request>(&line).unwrap().id;
        let reply = serde_json::to_string(&FromAgent::Reply { id, result }).unwrap();
        agent.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn only_the_token_makes_an_agent() {
        let (port, listener) = port();
        let waiting = tokio::spawn(Agent::await_ready(listener, "secret".into()));
        for impostor in [ready("guess", 1), "not json".into(), "x".repeat(MAX_LINE + 9), String::new()] {
            port.dial(&impostor).await;
        }
        let mut real = port.dial(&ready("secret", 1)).await;
        let (agent, readiness) = waiting.await.unwrap().unwrap();
        assert_eq!((readiness.kernel.as_str(), readiness.data_disk), ("6.1", DataDisk::Kept));
        let (asked, ()) = tokio::join!(agent.ask(Ask::Builds), answer(&mut real, Ok(Answer::Builds { running: 3 })));
        assert_eq!(asked.unwrap(), Answer::Builds { running: 3 });
        let (asked, ()) = tokio::join!(agent.ask(Ask::Trim), answer(&mut real, Err("no space".into())));
        assert!(asked.unwrap_err().message.contains("no space"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_reads_and_does_not_answer_has_the_time_limit_of_the_request() {
        let (port, listener) = port();
        let waiting = tokio::spawn(Agent::await_ready(listener, "t".into()));
        let mut real = port.dial(&ready("t", 1)).await;
        let (agent, _) = waiting.await.unwrap().unwrap();
        let reads = tokio::spawn(async move { while real.read_line(&mut String::new()).await.unwrap() > 0 {} });
        for (ask, seconds) in [(Ask::Builds, 10), (Ask::Trim, 120), (Ask::LeaveStore, 120)] {
            let began = tokio::time::Instant::now();
            let error = agent.ask(ask).await.unwrap_err();
            assert_eq!(began.elapsed().as_secs(), seconds, "{error}");
            assert!(error.message.contains("did not answer within"), "{error}");
        }
        reads.abort();
    }

    #[tokio::test]
    async fn another_version_ends_the_wait() {
        let (port, listener) = port();
        let _agent = port.dial(&ready("t", 2)).await;
        let error = Agent::await_ready(listener, "t".into()).await.unwrap_err();
        assert!(error.message.contains("protocol 2"), "{error}");
    }

    #[tokio::test]
    async fn a_broken_connection_fails_its_questions_and_a_new_one_takes_over() {
        let (port, listener) = port();
        let waiting = tokio::spawn(Agent::await_ready(listener, "t".into()));
        let first = port.dial(&ready("t", 1)).await;
        let (agent, _) = waiting.await.unwrap().unwrap();
        let question = tokio::spawn({
            let agent = agent.clone();
            async move { agent.ask(Ask::Builds).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(question.await.unwrap().unwrap_err().kind, Kind::Guest);
        let mut second = port.dial(&ready("t", 1)).await;
        tokio::task::yield_now().await;
        let (asked, ()) =
            tokio::join!(agent.ask(Ask::FreshView { expected: vec![] }), answer(&mut second, Ok(Answer::Done)));
        assert_eq!(asked.unwrap(), Answer::Done);
        drop(port);
        tokio::task::yield_now().await;
        assert!(agent.ask(Ask::Builds).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_delay_no_other() {
        let began = tokio::time::Instant::now();
        let (port, listener) = port();
        let waiting = tokio::spawn(Agent::await_ready(listener, "t".into()));
        let mut silent = vec![];
        let mut crowd = async || {
            for _ in 0..2 * MAX_UNAUTHENTICATED {
                silent.push(port.dial_silently(64).await);
            }
        };
        crowd().await;
        let mut real = port.dial(&ready("t", 1)).await;
        let (agent, _) = waiting.await.unwrap().unwrap();
        crowd().await;
        let both = async { tokio::join!(agent.ask(Ask::Builds), answer(&mut real, Ok(Answer::Builds { running: 1 }))) };
        let (asked, ()) = timeout(WORK, both).await.expect("an answer");
        assert_eq!(asked.unwrap(), Answer::Builds { running: 1 });
        drop(real);
        crowd().await;
        let mut again = port.dial(&ready("t", 1)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let both = async { tokio::join!(agent.ask(Ask::Trim), answer(&mut again, Ok(Answer::Done))) };
        let (asked, ()) = timeout(WORK, both).await.expect("an answer");
        assert_eq!(asked.unwrap(), Answer::Done);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_read_is_replaced_by_the_next() {
        let (port, listener) = port();
        let waiting = tokio::spawn(Agent::await_ready(listener, "t".into()));
        let mut deaf = port.dial_silently(256).await;
        deaf.write_all(format!("{}\n", ready("t", 1)).as_bytes()).await.unwrap();
        let (agent, _) = waiting.await.unwrap().unwrap();
        let long = Ask::Forget { paths: vec!["x".repeat(1000)] };
        let asked = tokio::time::Instant::now();
        assert_eq!(agent.ask(long).await.unwrap_err().kind, Kind::Guest);
        assert!(asked.elapsed() <= SEND_TIMEOUT, "{:?}", asked.elapsed());
        let mut next = port.dial(&ready("t", 1)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let both = async { tokio::join!(agent.ask(Ask::Trim), answer(&mut next, Ok(Answer::Done))) };
        let (asked, ()) = timeout(WORK, both).await.expect("an answer");
        assert_eq!(asked.unwrap(), Answer::Done);
    }

    #[tokio::test]
    async fn a_guest_that_ends_ends_the_wait() {
        let (port, listener) = port();
        drop(port);
        assert_eq!(Agent::await_ready(listener, "t".into()).await.unwrap_err().kind, Kind::Boot);
    }
}
