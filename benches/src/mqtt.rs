//! A device: as much of MQTT 3.1.1 as publishing at QoS 1 needs, over a raw socket.

use crate::Result;
use crate::app::{App, MESSAGES_MAX};
use crate::rows;
use crate::stats::Latencies;
use crate::sys::{self, Poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Messages sent and not yet acknowledged; the door's own default for a client.
const WINDOW: usize = 32;
/// Topics published to in turn: deliveries of one topic wait for each other.
const TOPICS: usize = 16;
/// Time for what is under way at the end.
const LAST_ARRIVALS: Duration = Duration::from_secs(20);

const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;

/// What came of publishing.
pub(crate) struct Outcome {
    /// From when a message was due to its arrival at the app.
    pub(crate) to_app: Latencies,
    /// From when a message was due to its PUBACK.
    pub(crate) to_puback: Latencies,
    pub(crate) elapsed: Duration,
}

/// Publishes numbered messages at a steady rate (or as fast as acknowledgements come) until the
/// time is up, and waits until the app has them all.
pub(crate) fn run(
    address: SocketAddr,
    app: &App,
    per_second: Option<u32>,
    duration: Duration,
) -> Result<Outcome> {
    sys::precise_timers();
    app.forget();
    let mut stream = connect(address)?;
    let mut poll = Poll::new([&stream]);
    let started = Instant::now();
    let (mut due_at, mut window) = (Vec::new(), VecDeque::new());
    let (mut to_puback, mut read) = (Latencies::default(), Vec::new());
    let period = per_second.map(|rate| Duration::from_secs(1) / rate);
    let mut next = started;
    loop {
        let now = Instant::now();
        let open = now.duration_since(started) < duration && due_at.len() < MESSAGES_MAX;
        if !open && window.is_empty() {
            break;
        }
        if now.duration_since(started) > duration + LAST_ARRIVALS {
            return Err("the last PUBACKs did not come".into());
        }
        while open && window.len() < WINDOW && next <= now {
            let n = due_at.len();
            stream.write_all(&publish(n))?;
            let due = if period.is_some() { next } else { now };
            window.push_back(due);
            due_at.push(due);
            match period {
                Some(period) => next += period,
                None if window.len() >= WINDOW => break,
                None => {}
            }
        }
        let wait = match period {
            Some(_) if open && window.len() < WINDOW => next.saturating_duration_since(now),
            _ => Duration::from_millis(100),
        };
        if poll.wait(wait)?.next().is_some() {
            receive(&mut stream, &mut read)?;
            let mut used = 0;
            while let Some([kind, _, _, _]) = read.get(used..used + 4) {
                let due: Instant = match *kind {
                    PUBACK => window.pop_front().ok_or("a PUBACK for nothing")?,
                    kind => return Err(format!("packet {kind:#x} instead of PUBACK").into()),
                };
                to_puback.add(due.elapsed());
                used += 4;
            }
            read.drain(..used);
        }
    }
    let elapsed = started.elapsed();
    let end = Instant::now() + LAST_ARRIVALS;
    let mut to_app = Latencies::default();
    for (n, due) in due_at.iter().enumerate() {
        while app.arrival(n).is_none() {
            if Instant::now() > end {
                return Err(format!("message {n} of {} did not arrive", due_at.len()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let arrival = app.arrival(n).unwrap_or(*due);
        to_app.add(arrival.saturating_duration_since(*due));
    }
    Ok(Outcome { to_app, to_puback, elapsed })
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    // Clean session, keep-alive off, so that a pause of the load ends nothing.
    let mut packet = vec![0x10, 0, 0, 4];
    packet.extend(b"MQTT\x04\x02\x00\x00\x00\x05bench");
    let rest = u8::try_from(packet.len() - 2)?;
    if let Some(length) = packet.get_mut(1) {
        *length = rest;
    }
    stream.write_all(&packet)?;
    let mut answer = [0; 4];
    stream.set_read_timeout(Some(LAST_ARRIVALS))?;
    stream.read_exact(&mut answer)?;
    if answer != [CONNACK, 2, 0, 0] {
        return Err(format!("the MQTT door answered {answer:?} to CONNECT").into());
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn publish(n: usize) -> Vec<u8> {
    let topic = format!("bench/{}", n % TOPICS);
    let payload = rows::message(n);
    let mut rest = Vec::with_capacity(payload.len() + topic.len() + 4);
    rest.extend(u16::try_from(topic.len()).unwrap_or(0).to_be_bytes());
    rest.extend(topic.as_bytes());
    // Ids are reused only after their PUBACK: the window is far smaller than their number.
    rest.extend((u16::try_from(n % 60_000).unwrap_or(0) + 1).to_be_bytes());
    rest.extend(payload.as_bytes());
    let mut packet = vec![0x32];
    let mut length = rest.len();
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or(0);
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(rest);
    packet
}

fn receive(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk) {
        Ok(0) => Err("the MQTT door closed the connection".into()),
        Ok(count) => {
            into.extend_from_slice(chunk.get(..count).unwrap_or_default());
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}
