//! What of a fault goes on while the next build runs, and must not keep it from succeeding.

use crate::arena::Arena;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long the API may be out of reach for those who have its token.
const REACH: Duration = Duration::from_secs(60);

/// It.
pub enum Aftermath {
    None,
    /// The daemon runs with settings that only this fault wants.
    OtherSettings,
    Crowd(Crowd),
}

impl Aftermath {
    /// What else than a build must be possible meanwhile: why it was not.
    pub fn look(&self, arena: &Arena) -> Result<(), String> {
        match self {
            Aftermath::Crowd(_) => ask_the_api(arena),
            Aftermath::None | Aftermath::OtherSettings => Ok(()),
        }
    }

    /// Puts an end to it.
    pub fn end(self, arena: &mut Arena) {
        match self {
            Aftermath::None => {}
            Aftermath::OtherSettings => arena.restart_daemon(None),
            Aftermath::Crowd(crowd) => drop(crowd),
        }
    }
}

/// Connections that say nothing, of a process of another user where this one is root.
pub struct Crowd(Child);

/// Dials as often as it is told, and whenever one of its connections is closed, but not more than ten a second, dials again.
const DIAL: &str = r#"
import resource, select, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
crowd = {}
poll = select.poll()
def dial(port):
    one = socket.create_connection(("127.0.0.1", port))
    crowd[one.fileno()] = (one, port)
    poll.register(one, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
for port, times in zip(sys.argv[1::2], sys.argv[2::2]):
    for _ in range(int(times)):
        dial(int(port))
print("all", flush=True)
while True:
    for descriptor, _ in poll.poll():
        poll.unregister(descriptor)
        one, port = crowd.pop(descriptor)
        one.close()
        time.sleep(0.1)
        try:
            dial(port)
        except OSError:
            pass
"#;

impl Crowd {
    /// Connects so many times to each of these ports. The listeners' queues are longer than what is dialled, so no connection is
    /// waited for.
    pub fn gather(ports: &[(u16, u32)]) -> Crowd {
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let mut crowd = if is_root {
            let mut other = Command::new("setpriv");
            other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL", "python3"]);
            other
        } else {
            Command::new("python3")
        };
        crowd.args(["-c", DIAL]);
        crowd.args(ports.iter().flat_map(|(port, times)| [port.to_string(), times.to_string()]));
        let crowd = crowd.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut crowd = Crowd(crowd.unwrap());
        let mut said = String::new();
        BufReader::new(crowd.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said.is_empty() {
            crowd.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the crowd did not gather: {said}");
        }
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody who has the token is served, if not at once.
fn ask_the_api(arena: &Arena) -> Result<(), String> {
    let token = arena.lab.ok(&["token"]);
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", arena.api_port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let head = format!(
            "GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            arena.api_port,
            token.trim()
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let began = Instant::now();
    loop {
        let why = match ask() {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return Ok(()),
            Ok(answer) => answer.lines().next().unwrap_or("an empty answer").to_owned(),
            Err(error) => error.to_string(),
        };
        if began.elapsed() > REACH {
            return Err(format!("the API on TCP does not serve those with the token: {why}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
