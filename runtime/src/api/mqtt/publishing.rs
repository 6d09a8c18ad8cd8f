//! Publishes of one client that wait for their result, in the order in which they came.
//!
//! They run side by side, so that many share one sync; their results come out one after the other.

use crate::broker::session::Ticket;
use pillion_components::Result;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A publish on its way.
type Publish<'d> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'd>>;

enum Stage<'d> {
    Running(Publish<'d>),
    Done(Result<()>),
}

/// Bounded by the session, which takes no more packets while too many wait.
#[derive(Default)]
pub(super) struct Publishing<'d> {
    waiting: VecDeque<(Ticket, Stage<'d>)>,
    /// The task slept since they were polled.
    has_slept: bool,
}

impl<'d> Publishing<'d> {
    /// Starts a publish. The first poll happens here: it gives the message its place. Gives the
    /// result if it is there at once and nothing waits before it.
    pub(super) fn start(
        &mut self,
        ticket: Ticket,
        mut publish: Publish<'d>,
        cx: &mut Context<'_>,
    ) -> Option<Result<()>> {
        self.wake(cx);
        let stage = match publish.as_mut().poll(cx) {
            Poll::Ready(result) if self.waiting.is_empty() => return Some(result),
            Poll::Ready(result) => Stage::Done(result),
            Poll::Pending => Stage::Running(publish),
        };
        self.waiting.push_back((ticket, stage));
        None
    }

    /// The next result in order; pending while there is none.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, Result<()>)> {
        self.wake(cx);
        if let Some((_, stage)) = self.waiting.front_mut()
            && stage.is_done(cx)
            && let Some((ticket, Stage::Done(result))) = self.waiting.pop_front()
        {
            return Poll::Ready((ticket, result));
        }
        Poll::Pending
    }

    /// The task is about to sleep, or has slept.
    pub(super) const fn sleeps(&mut self) {
        self.has_slept = true;
    }

    /// After a sleep all are polled, the oldest first and before any new one starts. One that could
    /// not take its place when it was started (a channel was full, or the task had used up its
    /// time) does so now, in order; one that needs several steps goes on.
    fn wake(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.has_slept) {
            for (_, stage) in &mut self.waiting {
                stage.is_done(cx);
            }
        }
    }
}

impl Stage<'_> {
    fn is_done(&mut self, cx: &mut Context<'_>) -> bool {
        if let Stage::Running(publish) = self
            && let Poll::Ready(result) = publish.as_mut().poll(cx)
        {
            *self = Stage::Done(result);
        }
        matches!(self, Stage::Done(_))
    }
}
