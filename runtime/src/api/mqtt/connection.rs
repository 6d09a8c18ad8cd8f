//! One connected client: awaits its socket, its queue, its publishes and the clock, hands what
//! happens to the session and does what the session says.

use super::codec;
use super::publishing::Publishing;
use super::store::expiry_ms;
use super::wire::Wire;
use super::{Door, Seat};
use crate::broker::packet::{Notice, Packet, Reason, Version};
use crate::broker::registry::Away;
use crate::broker::session::{Action, Close, Session, Ticket};
use crate::broker::{OUTBOX_BYTES_SOFT, RETAINED_PER_SUBSCRIBE_MAX};
use crate::drain::Drain;
use pillion_components::pubsub::{Delivery, Message, Subscription};
use pillion_components::topic::Filter;
use pillion_components::{Kind, Result};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Time for the results that are waited for when a connection ends.
const RESULTS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a goodbye to reach the client.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Sleep of a connection without deadline.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// A client that was let in.
pub(super) struct Established {
    pub(super) wire: Wire,
    pub(super) session: Session,
    pub(super) subscription: Option<Box<dyn Subscription>>,
    pub(super) seat: Seat,
    /// What to publish if it vanishes, and how many milliseconds later.
    pub(super) will: Option<Box<(Message, u64)>>,
    /// The session has a record and a durable queue.
    pub(super) is_stored: bool,
    /// Largest packet that the client takes.
    pub(super) packet_bytes_max: Option<u32>,
}

/// What woke the connection.
enum Event {
    Published(Ticket, Result<()>),
    Delivery(Result<Delivery>),
    Read(io::Result<usize>),
    /// The socket took so much that deliveries may go on.
    Wrote,
    Lost,
    Deadline,
    TakenOver,
    Draining,
}

struct Connection<'d> {
    door: &'d Door,
    wire: Wire,
    session: Session,
    subscription: Option<Box<dyn Subscription>>,
    publishing: Publishing<'d>,
    is_stored: bool,
    packet_bytes_max: Option<u32>,
    /// It handled as many packets as it may before others have their turn.
    has_stopped: bool,
    /// Reading has its turn before deliveries: neither may starve the other.
    reads_first: bool,
}

/// Drives the session of one client to its end.
pub(super) async fn run(door: &Door, established: Box<Established>, mut drain: Drain) {
    let (mut connection, seat, will) = Connection::new(door, *established);
    let close = {
        let leave = seat.leave.clone();
        let mut leave = pin!(leave.notified());
        let mut draining = pin!(drain.started());
        let mut deadline = pin!(tokio::time::sleep(NO_DEADLINE));
        let mut ends = |cx: &mut Context<'_>| {
            if leave.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::TakenOver);
            }
            draining.as_mut().poll(cx).map(|()| Event::Draining)
        };
        loop {
            let needs_bytes = connection.decode();
            if let Some(close) = connection.act().await {
                break close;
            }
            if connection.has_stopped {
                connection.door.round.over().await;
                connection.publishing.sleeps();
                continue;
            }
            // What was done at once may have made room for packets that were read before.
            if !needs_bytes && connection.session.can_receive() {
                continue;
            }
            connection.arm(deadline.as_mut());
            let event = connection.wait(&mut ends, deadline.as_mut()).await;
            connection.handle(event);
        }
    };
    tracing::debug!(client = %connection.session.client_id(), why = close.why, "MQTT client gone");
    Box::pin(connection.end(close, seat, will)).await;
}

impl<'d> Connection<'d> {
    fn new(door: &'d Door, established: Established) -> (Self, Seat, Option<Box<(Message, u64)>>) {
        let Established { wire, session, subscription, seat, will, is_stored, packet_bytes_max } =
            established;
        let connection = Self {
            door,
            wire,
            session,
            subscription,
            publishing: Publishing::default(),
            is_stored,
            packet_bytes_max,
            has_stopped: false,
            reads_first: true,
        };
        (connection, seat, will)
    }

    /// Hands packets that were read to the session, as many as it takes and the round allows.
    /// Whether there is none left.
    fn decode(&mut self) -> bool {
        let now_ms = self.door.clock.now_ms();
        while self.session.can_receive() {
            self.has_stopped = self.door.round.is_over();
            if self.has_stopped {
                break;
            }
            match self.wire.decode() {
                Ok(Some(packet)) => {
                    self.door.round.count();
                    self.session.receive(packet, now_ms);
                }
                Ok(None) => return true,
                Err(bad) => self.session.close(bad.reason, bad.why),
            }
        }
        false
    }

    /// Does what the session says.
    async fn act(&mut self) -> Option<Close> {
        while let Some(action) = self.session.next_action() {
            match action {
                Action::Send(packet) => self.send(packet),
                Action::Publish(ticket, message) => self.publish(ticket, message).await,
                Action::Ack(token) => {
                    if let Some(subscription) = &mut self.subscription {
                        subscription.ack(token);
                    }
                }
                Action::Subscribed { answer, refusal, retained, is_changed } => {
                    let change = self.subscribe(*answer, *refusal, &retained, is_changed);
                    Box::pin(change).await;
                    self.publishing.sleeps();
                }
                Action::Dropped(reason) => self.door.count_dropped(reason),
                Action::Close(close) => return Some(close),
            }
        }
        None
    }

    fn send(&mut self, packet: Packet) {
        if let (Some(most), Packet::Publish(publish)) = (self.packet_bytes_max, &packet) {
            let length = codec::encoded_len(&packet, self.session.version());
            if u32::try_from(length).map_or(true, |length| length > most) {
                return self.session.undeliverable(publish.packet_id);
            }
        }
        self.wire.push(packet);
    }

    async fn publish(&mut self, ticket: Ticket, message: Message) {
        let publish = if message.retain && !message.payload.is_empty() {
            Box::pin(self.door.publish_retained(message, self.session.version()))
        } else {
            self.door.pubsub.publish(message)
        };
        let mut publish = Some(publish);
        // Never pending: the context is what is needed.
        let result = poll_fn(|cx| {
            let started = publish.take().map(|publish| self.publishing.start(ticket, publish, cx));
            Poll::Ready(started.flatten())
        })
        .await;
        if let Some(result) = result {
            self.session.published(ticket, result);
        }
    }

    /// The client asked for subscriptions: what is promised with the answer is done before it. One
    /// that only asks again for what it has costs no write, so that a full disk keeps nobody from
    /// what waits.
    async fn subscribe(
        &mut self,
        answer: Packet,
        refusal: Packet,
        retained: &[Filter],
        is_changed: bool,
    ) {
        let changed = if is_changed { self.change_queue().await } else { Ok(()) };
        let retained = match changed {
            Ok(()) => self.door.retained(retained, RETAINED_PER_SUBSCRIBE_MAX + 1).await,
            Err(error) => Err(error),
        };
        match retained {
            Ok(messages) => self.session.subscribed(answer, messages),
            Err(error) => {
                let client = self.session.client_id();
                tracing::warn!(%client, %error, "subscriptions could not be changed");
                self.session.subscribed(refusal, Vec::new());
                // The session on disk is as it was before; the client starts over from it.
                self.session.close(Reason::UNSPECIFIED, "subscriptions could not be changed");
            }
        }
    }

    async fn change_queue(&mut self) -> Result<()> {
        match &mut self.subscription {
            Some(subscription) => {
                subscription.set_filters(self.session.subscriptions().filters())?;
            }
            None => {
                let opened = self.door.open_queue(&self.session, self.is_stored).await?;
                self.subscription = Some(opened);
            }
        }
        if self.is_stored {
            self.door.store(&self.session).await?;
        }
        Ok(())
    }

    /// Sets the alarm to the session's deadline.
    fn arm(&self, deadline: Pin<&mut Sleep>) {
        let left = self.session.deadline_ms().map_or(NO_DEADLINE, |at_ms| {
            Duration::from_millis(at_ms.saturating_sub(self.door.clock.now_ms()))
        });
        let at = tokio::time::Instant::now() + left;
        // An alarm that rings too early is set again then: that is cheaper than at every packet.
        if deadline.is_elapsed() || at < deadline.deadline() {
            deadline.reset(at);
        }
    }

    async fn wait(
        &mut self,
        ends: &mut (impl FnMut(&mut Context<'_>) -> Poll<Event> + Send),
        mut deadline: Pin<&mut Sleep>,
    ) -> Event {
        let backlog_bytes = self.wire.backlog_bytes();
        let is_blocked = backlog_bytes >= OUTBOX_BYTES_SOFT || self.wire.is_overfull();
        let can_deliver = self.session.can_deliver(backlog_bytes);
        let can_read = self.session.can_receive() && !self.wire.is_overfull();
        let reads_first = self.reads_first;
        let Self { wire, publishing, subscription, .. } = self;
        let subscription = subscription.as_mut().filter(|_| can_deliver);
        let mut next = subscription.map(|subscription| subscription.next());
        let mut deliver = |cx: &mut Context<'_>| match &mut next {
            Some(next) => next.as_mut().poll(cx).map(Event::Delivery),
            None => Poll::Pending,
        };
        poll_fn(|cx| {
            if let Poll::Ready(event) = ends(cx) {
                return Poll::Ready(event);
            }
            if let Poll::Ready((ticket, result)) = publishing.poll_next(cx) {
                return Poll::Ready(Event::Published(ticket, result));
            }
            // What is ready is gathered before it is written: one write carries many packets.
            if wire.is_worth_a_write() && matches!(wire.poll_write(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Event::Lost);
            }
            if !reads_first && let Poll::Ready(event) = deliver(cx) {
                return Poll::Ready(event);
            }
            if can_read && let Poll::Ready(read) = wire.poll_read(cx) {
                return Poll::Ready(Event::Read(read));
            }
            if reads_first && let Poll::Ready(event) = deliver(cx) {
                return Poll::Ready(event);
            }
            if matches!(wire.poll_write(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Event::Lost);
            }
            let is_free = wire.backlog_bytes() < OUTBOX_BYTES_SOFT && !wire.is_overfull();
            if is_blocked && is_free {
                return Poll::Ready(Event::Wrote);
            }
            let rings = deadline.as_mut().poll(cx);
            if rings.is_pending() {
                publishing.sleeps();
            }
            rings.map(|()| Event::Deadline)
        })
        .await
    }

    fn handle(&mut self, event: Event) {
        let session = &mut self.session;
        match event {
            Event::Published(ticket, result) => session.published(ticket, result),
            Event::Delivery(Ok(delivery)) => {
                session.deliver(delivery, self.wire.backlog_bytes());
                self.reads_first = true;
            }
            Event::Delivery(Err(error)) if error.kind() == Kind::Closed => {
                session.close(Reason::ADMINISTRATIVE, "its queue was taken away");
            }
            Event::Delivery(Err(error)) => {
                let client = session.client_id();
                tracing::warn!(%client, %error, "its queue cannot be read");
                session.close(Reason::UNSPECIFIED, "its queue cannot be read");
            }
            Event::Read(Ok(0) | Err(_)) | Event::Lost => session.lose("the connection broke"),
            Event::Read(Ok(_)) => self.reads_first = false,
            Event::Wrote => {}
            Event::Deadline => session.tick(self.door.clock.now_ms()),
            Event::TakenOver => session.close(Reason::TAKEN_OVER, "taken over"),
            Event::Draining => session.close(Reason::SHUTTING_DOWN, "shutting down"),
        }
    }

    /// The connection ends; the session may go on without it.
    async fn end(mut self, close: Close, mut seat: Seat, will: Option<Box<(Message, u64)>>) {
        // What was taken is finished, so that its answers are true and no packet id is forgotten.
        let _ = tokio::time::timeout(RESULTS_TIMEOUT, self.finish_publishing()).await;
        if let Some(reason) = close.reason
            && self.session.version() == Version::V5
        {
            self.wire.push(Packet::Disconnect(Notice { reason, properties: None }));
        }
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.say_goodbye()).await;
        let Self { door, session, subscription, is_stored, wire, .. } = self;
        // Closes the socket and leaves the queue before the seat is given to the next.
        drop((wire, subscription));
        let (client, expiry_s) = (session.client_id().clone(), session.expiry_s());
        let is_persistent = session.is_persistent();
        let (subscriptions, parked) = session.park();
        let will = will.filter(|_| close.with_will);
        seat.away = None;
        let stored = if is_persistent {
            let stored = door.store_away(&client, expiry_s, &subscriptions, &parked).await;
            let now_ms = door.clock.now_ms();
            let expires_ms = door.expires_ms(now_ms, expiry_s);
            seat.away = Some(Away { parked, expires_ms, will: None });
            stored
        } else if is_stored {
            door.forget(&client).await
        } else {
            Ok(())
        };
        if let Err(error) = stored {
            tracing::warn!(%client, %error, "the end of an MQTT session could not be stored");
        }
        if let Some((message, delay_ms)) = will.map(|will| *will) {
            let delay_ms = delay_ms.min(expiry_ms(expiry_s));
            match &mut seat.away {
                Some(away) if delay_ms > 0 => {
                    let at_ms = door.clock.now_ms().saturating_add(delay_ms);
                    away.will = Some((at_ms, message));
                }
                _ => door.publish_will(message).await,
            }
        }
    }

    async fn finish_publishing(&mut self) {
        while self.session.is_publishing() {
            let (ticket, result) = poll_fn(|cx| {
                let next = self.publishing.poll_next(cx);
                if next.is_pending() {
                    self.publishing.sleeps();
                }
                next
            })
            .await;
            self.session.published(ticket, result);
        }
        while let Some(action) = self.session.next_action() {
            if let Action::Send(packet) = action {
                self.wire.push(packet);
            }
        }
    }

    async fn say_goodbye(&mut self) -> io::Result<()> {
        self.wire.flush().await?;
        self.wire.shutdown().await
    }
}

/// Size of the task of an idle connection, for a test that keeps it small.
#[cfg(test)]
pub(super) fn bytes_per_connection() -> usize {
    fn size_of_future<F>(
        _: impl FnOnce(std::sync::Arc<Door>, super::handshake::Client, Drain) -> F,
    ) -> usize {
        size_of::<F>()
    }
    size_of_future(super::handshake::serve)
}
