//! The lasting effect of a fault during the next build, which must succeed all the same.

use crate::arena::Arena;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long the API may be unreachable for clients with the token.
const REACH: Duration = Duration::from_secs(60);

/// The lasting effect.
pub enum Aftermath {
    None,
    /// The daemon runs with settings for this fault only.
    OtherSettings,
    Crowd(Crowd),
}

impl Aftermath {
    /// Checks what must work meanwhile besides a build. `Err` says why it failed.
    pub fn look(&self, arena: &Arena) -> Result<(), String> {
        match self {
            Aftermath::Crowd(_) => ask_the_api(arena),
            Aftermath::None | Aftermath::OtherSettings => Ok(()),
        }
    }

    /// Ends it.
    pub fn end(self, arena: &mut Arena) {
        match self {
            Aftermath::None => {}
            Aftermath::OtherSettings => arena.restart_daemon(None),
            Aftermath::Crowd(crowd) => drop(crowd),
        }
    }
}

/// Silent connections of another process; of another user if this one runs as root.
pub struct Crowd(Child);

/// Dials on request, and redials each connection that is closed, at most ten per second. Root changes to another user
/// first, but only after Python has found its modules. The end of stdin ends it.
const DIAL: &str = r#"
import os, resource, select, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
crowd = {}
poll = select.poll()
poll.register(0, select.POLLHUP)
def dial(port):
    one = socket.socket()
    one.connect(("127.0.0.1", port))
    crowd[one.fileno()] = (one, port)
    poll.register(one, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
for port, times in zip(sys.argv[1::2], sys.argv[2::2]):
    for _ in range(int(times)):
        dial(int(port))
print("all", flush=True)
while True:
    for descriptor, _ in poll.poll():
        if descriptor == 0:
            sys.exit()
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
    /// Opens that many connections to each of these ports. The listeners' queues are longer than that, so it does not
    /// wait for any.
    pub fn gather(ports: &[(u16, u32)]) -> Crowd {
        let mut crowd = Command::new("python3");
        crowd.args(["-c", DIAL]);
        crowd.args(ports.iter().flat_map(|(port, times)| [port.to_string(), times.to_string()]));
        let crowd = crowd.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
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

/// A client with the token is served, if not at once.
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
