//! One connection's bytes: TCP or unix socket, with the bytes read ahead to tell HTTP/2 from
//! HTTP/1.1.

use crate::api::http::phase::Phase;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// First bytes of a client that speaks HTTP/2 without asking.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket of either family, so that the protocol's code exists once.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection's socket and what was read of it ahead.
pub(super) struct Io {
    stream: Stream,
    ahead: [u8; PREFACE.len()],
    ahead_begin: usize,
    ahead_end: usize,
    phase: Arc<Phase>,
}

impl Io {
    pub(super) fn new(stream: Stream, phase: Arc<Phase>) -> Self {
        Self { stream, ahead: [0; PREFACE.len()], ahead_begin: 0, ahead_end: 0, phase }
    }

    /// Whether the client begins with HTTP/2's preface. What was read is read again by the
    /// protocol. Reads no more than it takes to tell: of HTTP/1.1 usually one byte decides.
    pub(super) async fn begins_as_http2(&mut self) -> io::Result<bool> {
        loop {
            let Some(free) = self.ahead.get_mut(self.ahead_end..) else { return Ok(true) };
            if free.is_empty() {
                return Ok(true);
            }
            let count = self.stream.read(free).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead_end += count;
            if self.ahead.get(..self.ahead_end) != PREFACE.get(..self.ahead_end) {
                return Ok(false);
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead_begin < this.ahead_end {
            let end = this.ahead_end.min(this.ahead_begin + buf.remaining());
            buf.put_slice(this.ahead.get(this.ahead_begin..end).unwrap_or_default());
            this.ahead_begin = end;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.phase.bytes_came();
        }
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Stream::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}
