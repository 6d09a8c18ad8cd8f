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
pub(super) struct Publishing<'d>(VecDeque<(Ticket, Stage<'d>)>);

impl<'d> Publishing<'d> {
    /// Starts a publish. The first poll happens here: it gives the message its place. Gives the
    /// result if it is there at once and nothing waits before it.
    pub(super) fn start(
        &mut self,
        ticket: Ticket,
        mut publish: Publish<'d>,
        cx: &mut Context<'_>,
    ) -> Option<Result<()>> {
        let stage = match publish.as_mut().poll(cx) {
            Poll::Ready(result) if self.0.is_empty() => return Some(result),
            Poll::Ready(result) => Stage::Done(result),
            Poll::Pending => Stage::Running(publish),
        };
        self.0.push_back((ticket, stage));
        None
    }

    /// The next result in order; pending while there is none.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, Result<()>)> {
        if let Some((_, stage)) = self.0.front_mut()
            && stage.is_done(cx)
            && let Some((ticket, Stage::Done(result))) = self.0.pop_front()
        {
            return Poll::Ready((ticket, result));
        }
        Poll::Pending
    }

    /// Moves those on that wait behind the first: one that needs several steps shall not wait with
    /// the second for its turn.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        for (_, stage) in self.0.iter_mut().skip(1) {
            stage.is_done(cx);
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
