//! A bare MQTT 3.1.1 client for load and kill tests: it knows exactly which publishes were
//! acknowledged. Conformance is judged by mosquitto's and paho's clients, not by this one.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A packet as it came: first byte and body.
#[derive(Debug)]
pub struct Packet {
    /// Type and flags.
    pub head: u8,
    /// What follows the remaining length.
    pub body: Vec<u8>,
}

impl Packet {
    /// Packet type, the upper four bits.
    pub fn kind(&self) -> u8 {
        self.head >> 4
    }

    /// The two bytes at `at` as a number.
    pub fn u16_at(&self, at: usize) -> u16 {
        let byte = |index: usize| u16::from(self.body.get(index).copied().unwrap_or(0));
        byte(at) << 8 | byte(at + 1)
    }

    /// Topic, packet identifier (0 at QoS 0) and payload of a PUBLISH.
    pub fn publish(&self) -> (String, u16, &[u8]) {
        let topic_end = 2 + usize::from(self.u16_at(0));
        let topic = String::from_utf8_lossy(self.body.get(2..topic_end).unwrap_or_default());
        if self.head & 0b110 == 0 {
            return (topic.into(), 0, self.body.get(topic_end..).unwrap_or_default());
        }
        let payload = self.body.get(topic_end + 2..).unwrap_or_default();
        (topic.into(), self.u16_at(topic_end), payload)
    }
}

/// The sending half.
#[derive(Debug)]
pub struct Sender(OwnedWriteHalf);

/// The receiving half.
#[derive(Debug)]
pub struct Receiver(BufReader<OwnedReadHalf>);

/// Connects and waits for CONNACK; an error if it refuses.
pub async fn connect(
    address: SocketAddr,
    client: &str,
    clean: bool,
) -> io::Result<(Sender, Receiver)> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (read, write) = socket.into_split();
    let (mut sender, mut receiver) = (Sender(write), Receiver(BufReader::new(read)));
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, u8::from(clean) << 1, 0, 60];
    text(&mut body, client);
    sender.send(0x10, &body).await?;
    let answer = receiver.next().await?;
    if answer.kind() == 2 && answer.body.get(1) == Some(&0) {
        Ok((sender, receiver))
    } else {
        Err(io::Error::new(ErrorKind::ConnectionRefused, format!("{answer:?}")))
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("a short text");
    body.extend(length.to_be_bytes());
    body.extend(text.as_bytes());
}

impl Sender {
    /// PUBLISH at QoS 1 with this packet identifier.
    pub async fn publish(&mut self, topic: &str, id: u16, payload: &[u8]) -> io::Result<()> {
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        text(&mut body, topic);
        body.extend(id.to_be_bytes());
        body.extend(payload);
        self.send(0x32, &body).await
    }

    /// SUBSCRIBE to one filter.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body).await
    }

    /// PUBACK.
    pub async fn puback(&mut self, id: u16) -> io::Result<()> {
        self.send(0x40, &id.to_be_bytes()).await
    }

    /// Any packet.
    pub async fn send(&mut self, head: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![head];
        let mut length = body.len();
        loop {
            let low = u8::try_from(length & 0x7f).expect("seven bits");
            length >>= 7;
            packet.push(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        packet.extend(body);
        self.0.write_all(&packet).await
    }
}

impl Receiver {
    /// The next packet.
    pub async fn next(&mut self) -> io::Result<Packet> {
        let head = self.0.read_u8().await?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = self.0.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(Packet { head, body })
    }

    /// The next packet of this type; others are dropped.
    pub async fn next_of(&mut self, kind: u8) -> io::Result<Packet> {
        loop {
            let packet = self.next().await?;
            if packet.kind() == kind {
                return Ok(packet);
            }
        }
    }
}
