//! Changes that take effect together, and what a commit of them resolves to.

use super::{Consumer, Stream, Table};
use crate::error::{Error, Kind, Result};
use crate::pubsub::Message;
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// What must hold of a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no value, or it has expired.
    Absent,
    /// The value has this ETag.
    Etag(u64),
}

/// What [`Batch::put`] writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Put<'a> {
    /// The bytes; copied.
    pub value: &'a [u8],
    /// Time to live in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Content type to keep with it.
    pub content_type: Option<&'a str>,
}

/// One change of a batch.
#[derive(Debug)]
pub(super) enum Operation {
    Put {
        table: Table,
        key: Bytes,
        value: Bytes,
        ttl_ms: Option<u64>,
        content_type: Option<Arc<str>>,
        expect: Expect,
    },
    Delete {
        table: Table,
        key: Bytes,
        expect: Expect,
    },
    Append {
        stream: Stream,
        message: Arc<Message>,
    },
    SetConsumer {
        stream: Stream,
        consumer: Box<Consumer>,
    },
    MoveConsumer {
        stream: Stream,
        name: Box<str>,
        cursor: u64,
        acknowledged: Box<[u64]>,
    },
    RemoveConsumer {
        stream: Stream,
        name: Box<str>,
    },
}

/// Changes that take effect together.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) operations: Vec<Operation>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a value. `ttl_ms` counts from the commit.
    pub fn put(&mut self, table: Table, key: &[u8], put: Put<'_>, expect: Expect) {
        self.operations.push(Operation::Put {
            table,
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(put.value),
            ttl_ms: put.ttl_ms,
            content_type: put.content_type.map(shared_text),
            expect,
        });
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: &[u8], expect: Expect) {
        self.operations.push(Operation::Delete { table, key: Bytes::copy_from_slice(key), expect });
    }

    /// Appends a record. It is stored while a consumer of the stream wants it.
    pub fn append(&mut self, stream: Stream, message: Arc<Message>) {
        self.operations.push(Operation::Append { stream, message });
    }

    /// Creates or replaces a consumer. A cursor behind the one it has is not taken over.
    pub fn set_consumer(&mut self, stream: Stream, consumer: &Consumer) {
        self.operations
            .push(Operation::SetConsumer { stream, consumer: Box::new(consumer.clone()) });
    }

    /// Moves a consumer: smaller in the log than replacing it. Unknown names are ignored.
    pub fn move_consumer(&mut self, stream: Stream, name: &str, cursor: u64, acknowledged: &[u64]) {
        self.operations.push(Operation::MoveConsumer {
            stream,
            name: name.into(),
            cursor,
            acknowledged: acknowledged.into(),
        });
    }

    /// Forgets a consumer.
    pub fn remove_consumer(&mut self, stream: Stream, name: &str) {
        self.operations.push(Operation::RemoveConsumer { stream, name: name.into() });
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// The content types that nearly every value has are kept once.
pub(super) fn shared_text(text: &str) -> Arc<str> {
    use std::sync::LazyLock;
    static COMMON: LazyLock<[Arc<str>; 4]> = LazyLock::new(|| {
        [
            "application/json",
            "application/octet-stream",
            "text/plain",
            "application/cloudevents+json",
        ]
        .map(Arc::from)
    });
    COMMON.iter().find(|common| ***common == *text).cloned().unwrap_or_else(|| Arc::from(text))
}

/// What a commit was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// ETag of the first put; the next ones follow it by ones.
    pub first_etag: u64,
    /// Position of the first append; the next ones follow it by ones per stream.
    pub first_position: u64,
}

/// A batch on its way to the disk. Dropping it does not take the batch back.
#[derive(Debug)]
pub struct Commit(pub(super) Answer);

#[derive(Debug)]
pub(super) enum Answer {
    Ready(Committed),
    Waiting(oneshot::Receiver<Result<Committed>>),
}

impl Future for Commit {
    type Output = Result<Committed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::Ready(committed) => Poll::Ready(Ok(*committed)),
            Answer::Waiting(receiver) => Pin::new(receiver).poll(cx).map(|answer| {
                answer.unwrap_or_else(|_| {
                    Err(Error::new(Kind::Closed, "storage was closed before the sync"))
                })
            }),
        }
    }
}
