//! A socket as packets: what is read and not decoded, what is to be sent and not written.
//!
//! An idle connection holds no buffer: reads go through the stack, and both buffers are given back
//! when they are empty.

use super::Packets;
use super::codec::{self, Bad};
use crate::broker::packet::{Packet, Version};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read or written at a time.
const CHUNK_BYTES: usize = 8 << 10;

/// A buffer that is empty and larger than this is given back.
const IDLE_BYTES: usize = 1 << 10;

/// Packets that wait for the socket beyond which no more is read from it.
const OUTBOX_PACKETS_MAX: usize = 1024;

/// A stream of bytes, plain or TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The socket of one client.
pub(super) struct Wire {
    io: Box<dyn Io>,
    version: Version,
    packet_bytes_max: u32,
    inbox: Vec<u8>,
    decoded: usize,
    queue: VecDeque<Packet>,
    queue_bytes: usize,
    outbox: Vec<u8>,
    written: usize,
    is_flushed: bool,
    packets: Arc<Packets>,
}

impl Wire {
    pub(super) fn new(io: Box<dyn Io>, packet_bytes_max: u32, packets: Arc<Packets>) -> Self {
        Self {
            io,
            version: Version::V4,
            packet_bytes_max,
            inbox: Vec::new(),
            decoded: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            outbox: Vec::new(),
            written: 0,
            is_flushed: true,
            packets,
        }
    }

    /// From here on packets are of this version.
    pub(super) const fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The next packet of those that were read; `None` while it is incomplete.
    pub(super) fn decode(&mut self) -> Result<Option<Packet>, Bad> {
        let rest = self.inbox.get(self.decoded..).unwrap_or_default();
        match codec::decode(rest, self.version, self.packet_bytes_max)? {
            Some((packet, length)) => {
                self.decoded += length;
                if let Some(counter) = self.packets.received.get(usize::from(packet.kind())) {
                    counter.inc();
                }
                Ok(Some(packet))
            }
            None => {
                self.inbox.drain(..self.decoded);
                self.decoded = 0;
                if self.inbox.is_empty() && self.inbox.capacity() > IDLE_BYTES {
                    self.inbox = Vec::new();
                }
                Ok(None)
            }
        }
    }

    /// Reads some bytes; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [MaybeUninit::uninit(); CHUNK_BYTES];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk))?;
        let read = chunk.filled();
        self.inbox.extend_from_slice(read);
        Poll::Ready(Ok(read.len()))
    }

    /// Adds a packet to those that wait for the socket.
    pub(super) fn push(&mut self, packet: Packet) {
        if let Some(counter) = self.packets.sent.get(usize::from(packet.kind())) {
            counter.inc();
        }
        self.queue_bytes += packet.weight();
        self.queue.push_back(packet);
    }

    /// Bytes that wait for the socket, roughly.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.queue_bytes + self.outbox.len() - self.written
    }

    /// Enough waits for the socket to be worth a write.
    pub(super) fn is_worth_a_write(&self) -> bool {
        self.backlog_bytes() >= CHUNK_BYTES
    }

    /// So much waits that reading more would only add to it.
    pub(super) fn is_overfull(&self) -> bool {
        self.queue.len() >= OUTBOX_PACKETS_MAX
    }

    /// Writes what waits. Ready once nothing does.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.encode_some();
            let rest = self.outbox.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            self.is_flushed = false;
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.written += length,
            }
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn encode_some(&mut self) {
        if self.written < self.outbox.len() {
            return;
        }
        self.outbox.clear();
        self.written = 0;
        while self.outbox.len() < CHUNK_BYTES {
            let Some(packet) = self.queue.pop_front() else { break };
            self.queue_bytes = self.queue_bytes.saturating_sub(packet.weight());
            codec::encode(&packet, self.version, &mut self.outbox);
        }
        if self.outbox.is_empty() {
            if self.outbox.capacity() > IDLE_BYTES {
                self.outbox = Vec::new();
            }
            if self.queue.capacity() > IDLE_BYTES / size_of::<Packet>() {
                self.queue = VecDeque::new();
            }
        }
    }

    /// Writes what waits.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_write(cx)).await
    }

    /// Ends the stream.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await
    }

    /// The next packet. `Ok(None)` is the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Packet>, Bad> {
        loop {
            if let Some(packet) = self.decode()? {
                return Ok(Some(packet));
            }
            match std::future::poll_fn(|cx| self.poll_read(cx)).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }
}
