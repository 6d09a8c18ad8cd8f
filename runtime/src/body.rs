//! The body of a request or an answer: nothing, bytes at hand, or a stream passed on.

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

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
}

/// Why a body ended early.
pub type BodyError = hyper::Error;

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body that is passed on as it arrives.
    pub fn stream(incoming: Incoming) -> Self {
        Self { source: Source::Stream(incoming), _guard: None }
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
        !matches!(self.source, Source::Stream(_))
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
            Source::Stream(incoming) => Pin::new(incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Bytes(_) => false,
            Source::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stream(incoming) => incoming.size_hint(),
        }
    }
}
