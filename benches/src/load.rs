//! HTTP load over raw sockets: requests are bytes made beforehand, one thread waits in `ppoll`, so
//! that the load costs the machine as little as it can.
//!
//! In an open loop requests are due at fixed times whatever the answers do; a latency counts from
//! the time a request was due, so that waiting behind a slow answer is seen.

use crate::Result;
use crate::stats::Latencies;
use crate::sys::{self, Poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Time for the last answers after the load has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// What to send where.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Sent in turn.
    pub(crate) requests: Vec<Vec<u8>>,
    /// The only status that is no error.
    pub(crate) status: u16,
}

/// How to send it.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// So many a second over so many connections.
    Open { per_second: u32, connections: usize },
    /// The next one as soon as the answer is there.
    Closed { connections: usize },
}

/// When to stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Count(usize),
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) latencies: Latencies,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// A request as bytes.
pub(crate) fn request(method: &str, path: &str, json: &str) -> Vec<u8> {
    let body = if json.is_empty() {
        String::new()
    } else {
        format!("content-type: application/json\r\ncontent-length: {}\r\n", json.len())
    };
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{body}\r\n{json}").into_bytes()
}

/// One request on a connection of its own; its status and body.
pub(crate) fn once(address: SocketAddr, request: &[u8]) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LAST_ANSWERS))?;
    stream.write_all(request)?;
    let (mut read, mut chunk) = (Vec::new(), [0; 16 << 10]);
    loop {
        match answer(&read)? {
            Some((status, length)) => {
                let body = body_start(&read).and_then(|start| read.get(start..length));
                return Ok((status, body.unwrap_or_default().to_vec()));
            }
            None => match stream.read(&mut chunk)? {
                0 => return Err("the connection was closed before the answer ended".into()),
                count => read.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            },
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// Requests that are due and could not be sent yet.
    due: VecDeque<Instant>,
    /// When the request under way was due.
    under_way: Option<Instant>,
    read: Vec<u8>,
}

/// Loads `target` and waits for the last answer. Any other answer than the expected is an error:
/// numbers of a broken run would only mislead.
pub(crate) fn run(target: &Target, shape: Shape, until: Until) -> Result<Outcome> {
    sys::precise_timers();
    let count = match shape {
        Shape::Open { connections, .. } | Shape::Closed { connections } => connections,
    };
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(Connection::open(target.address)?);
    }
    let mut poll = Poll::new(connections.iter().map(|connection| &connection.stream));
    let mut pace = Pace::new(shape, until);
    let mut requests = target.requests.iter().cycle();
    let mut latencies = Latencies::default();
    let started = Instant::now();
    pace.start(started);
    loop {
        let now = Instant::now();
        pace.due(now, &mut connections);
        let mut busy = false;
        for connection in &mut connections {
            if connection.under_way.is_none()
                && let Some(due) = connection.due.pop_front()
            {
                let request = requests.next().ok_or("there is nothing to send")?;
                connection.stream.write_all(request)?;
                connection.under_way = Some(due);
            }
            busy |= connection.under_way.is_some();
        }
        if !busy && pace.is_over(now) {
            break;
        }
        if now.duration_since(started) > pace.give_up_after() {
            return Err("the last answers did not come".into());
        }
        for index in poll.wait(pace.wait(Instant::now()))? {
            let Some(connection) = connections.get_mut(index) else { continue };
            if let Some(latency) = connection.receive(target.status)? {
                latencies.add(latency);
            }
        }
    }
    Ok(Outcome { latencies, elapsed: started.elapsed() })
}

/// When requests are due.
struct Pace {
    shape: Shape,
    until: Until,
    sent: usize,
    next: Instant,
    end: Option<Instant>,
}

impl Pace {
    fn new(shape: Shape, until: Until) -> Self {
        Self { shape, until, sent: 0, next: Instant::now(), end: None }
    }

    fn start(&mut self, now: Instant) {
        self.next = now;
        self.end = match self.until {
            Until::Time(duration) => Some(now + duration),
            Until::Count(_) => None,
        };
    }

    fn is_over(&self, now: Instant) -> bool {
        match self.until {
            Until::Time(_) => self.end.is_some_and(|end| now >= end),
            Until::Count(count) => self.sent >= count,
        }
    }

    fn give_up_after(&self) -> Duration {
        match self.until {
            Until::Time(duration) => duration + LAST_ANSWERS,
            Until::Count(_) => Duration::from_secs(3600),
        }
    }

    /// Puts what is due now to the connections.
    fn due(&mut self, now: Instant, connections: &mut [Connection]) {
        match self.shape {
            Shape::Open { per_second, .. } => {
                let period = Duration::from_secs(1) / per_second;
                let count = connections.len();
                while self.next <= now && !self.is_over(self.next) {
                    if let Some(connection) = connections.get_mut(self.sent % count) {
                        connection.due.push_back(self.next);
                    }
                    self.sent += 1;
                    self.next += period;
                }
            }
            Shape::Closed { .. } => {
                for connection in connections {
                    if connection.under_way.is_none() && !self.is_over(now) {
                        connection.due.push_back(now);
                        self.sent += 1;
                    }
                }
            }
        }
    }

    /// How long nothing is due.
    fn wait(&self, now: Instant) -> Duration {
        match self.shape {
            Shape::Open { .. } if !self.is_over(self.next) => self.next.duration_since(now),
            _ => Duration::from_millis(100),
        }
    }
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, due: VecDeque::new(), under_way: None, read: Vec::with_capacity(4096) })
    }

    /// The latency of the request under way, if its answer is complete now.
    fn receive(&mut self, expected: u16) -> Result<Option<Duration>> {
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err("the server closed a connection under load".into()),
            Ok(count) => self.read.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let Some((status, _)) = answer(&self.read)? else { return Ok(None) };
        if status != expected {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            return Err(format!("expected {expected}, not: {text}").into());
        }
        self.read.clear();
        Ok(self.under_way.take().map(|due| due.elapsed()))
    }
}

fn body_start(read: &[u8]) -> Option<usize> {
    read.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

/// Status and whole length of the answer in `read`, once it is complete.
fn answer(read: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(start) = body_start(read) else { return Ok(None) };
    let head = std::str::from_utf8(read.get(..start).unwrap_or_default())?;
    let status: u16 = head.get(9..12).unwrap_or_default().parse()?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    if matches!(status, 204 | 304) {
        return Ok(Some((status, start)));
    }
    if header("transfer-encoding").is_some() {
        return Ok(read.ends_with(b"0\r\n\r\n").then_some((status, read.len())));
    }
    let length: usize = header("content-length").unwrap_or("0").parse()?;
    Ok((read.len() >= start + length).then_some((status, start + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_when_its_body_is() {
        for (read, complete) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Some(204)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some(200)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", None),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", None),
            ("HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Some(500)),
            ("HTTP/1.1 200", None),
        ] {
            let expected = complete.map(|status| (status, read.len()));
            assert_eq!(answer(read.as_bytes()).unwrap(), expected, "{read}");
        }
    }
}
