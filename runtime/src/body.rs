//! The body of a request or an answer: nothing, bytes at hand, a stream passed on, or a queue that
//! somebody fills.

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What travels in a request to an app or an answer to a client.
#[derive(Default)]
pub struct Body {
    source: Source,
    /// Dropped when the body has been sent or given up: a permit, a connection to give back.
    _guard: Option<Box<dyn Any + Send>>,
}

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Bytes(Bytes),
    Stream(Incoming),
    Queue(Queue),
}

/// Why a body ended early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What waits in a queue to be sent.
struct Queue {
    receiver: UnboundedReceiver<Message>,
    /// Bytes to come, where they are known; the receiver is told them beforehand.
    left: Option<u64>,
    ended: bool,
}

enum Message {
    Bytes(Waiting),
    End(Result<(), BodyError>),
}

/// Bytes in a queue, with the place that they take among those that may wait.
#[derive(Debug)]
pub struct Waiting {
    bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl Waiting {
    /// The place is given back when the bytes are on their way.
    pub fn new(bytes: Bytes, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { bytes, _place: place }
    }
}

/// The end of a queue at which it is filled. Dropped without [`end`](QueueEnd::end) it breaks the
/// body off.
#[derive(Debug)]
pub struct QueueEnd(UnboundedSender<Message>);

impl QueueEnd {
    /// Adds bytes. The places that they carry bound the queue.
    pub fn send(&self, waiting: Waiting) {
        // Nobody listens any more: the task that sends is about to be told.
        let _ = self.0.send(Message::Bytes(waiting));
    }

    /// The body is complete, or is broken off.
    pub fn end(self, result: Result<(), BodyError>) {
        let _ = self.0.send(Message::End(result));
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Message::Bytes(_) => "bytes",
            Message::End(_) => "end",
        })
    }
}

impl Queue {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(message) = self.receiver.poll_recv(cx) else { return Poll::Pending };
        if let Some(Message::Bytes(waiting)) = message {
            let count = waiting.bytes.len() as u64;
            self.left = self.left.map(|left| left.saturating_sub(count));
            return Poll::Ready(Some(Ok(Frame::data(waiting.bytes))));
        }
        self.ended = true;
        Poll::Ready(match message {
            Some(Message::End(Ok(()))) => None,
            Some(Message::End(Err(error))) => Some(Err(error)),
            _ => Some(Err("nobody completed the body".into())),
        })
    }
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body that is passed on as it arrives.
    pub fn stream(incoming: Incoming) -> Self {
        Self { source: Source::Stream(incoming), _guard: None }
    }

    /// A body that somebody fills as it is sent; `length` is its exact length, if that is known.
    pub fn queue(length: Option<u64>) -> (QueueEnd, Self) {
        let (sender, receiver) = unbounded_channel();
        let queue = Queue { receiver, left: length, ended: false };
        (QueueEnd(sender), Self { source: Source::Queue(queue), _guard: None })
    }

    /// Keeps `guard` until the body is gone, beside a guard that it has already.
    #[must_use]
    pub fn guarded(self, guard: impl Any + Send) -> Self {
        let guard: Box<dyn Any + Send> = match self._guard {
            Some(earlier) => Box::new((earlier, guard)),
            None => Box::new(guard),
        };
        Self { _guard: Some(guard), ..self }
    }

    /// Whether all of it is at hand, so that it does not wait for anybody else.
    pub fn is_whole(&self) -> bool {
        matches!(self.source, Source::Empty | Source::Bytes(_))
    }
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(bytes: B) -> Self {
        let bytes = bytes.into();
        let source = if bytes.is_empty() { Source::Empty } else { Source::Bytes(bytes) };
        Self { source, _guard: None }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::Empty => "Body(empty)",
            Source::Bytes(_) => "Body(bytes)",
            Source::Stream(_) => "Body(stream)",
            Source::Queue(_) => "Body(queue)",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Bytes(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                self.source = Source::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Source::Stream(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Source::Queue(queue) => queue.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Bytes(_) => false,
            Source::Stream(incoming) => incoming.is_end_stream(),
            Source::Queue(queue) => queue.ended || queue.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stream(incoming) => incoming.size_hint(),
            Source::Queue(queue) => queue.left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}
