//! The MQTT door: sockets and codec around the engine in [`crate::broker`].
//!
//! A connection is one task: [`handshake`] lets a client in, [`connection`] drives its session
//! until one of the two ends it. [`wire`] is the socket as packets, [`publishing`] the results that
//! are waited for, [`round`] their turns, [`retaining`] the
//! bound of retained messages, [`store`] what a persistent session keeps in the pub/sub component,
//! [`janitor`] ends sessions and publishes wills when their time has come.

mod codec;
mod connection;
mod handshake;
mod janitor;
mod publishing;
mod retaining;
mod round;
mod store;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "mqtt/tls_absent.rs"]
pub mod tls;
mod wire;

use crate::broker::access::Users;
use crate::broker::packet::KINDS;
use crate::broker::registry::{Away, Claim, Registry};
use crate::drain::Drain;
use crate::observe::metrics::families::{
    MQTT_CONNECTIONS, MQTT_DROPPED, MQTT_PACKETS, MQTT_REFUSED, MQTT_SESSIONS,
};
use crate::observe::metrics::{Counter, Gauge};
use crate::resources::{MqttLimits, MqttPlan, MqttUserPlan};
use pillion_components::env::Clock;
use pillion_components::pubsub::PubSub;
use round::Round;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio::task::JoinSet;

/// Time for a client to say who it is: TLS and CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Clients beyond `connections_max` that are told so; further ones are cut off without a word.
const REFUSALS_MAX: usize = 16;

/// Password hashes computed at a time; they take a core each.
const HASHING_MAX: usize = 2;

/// Pause after the system could give no connection (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection of the door shares.
pub struct Door {
    limits: MqttLimits,
    users: Users,
    pubsub: Arc<dyn PubSub>,
    clock: Clock,
    sessions: Mutex<Registry<Holder>>,
    connections: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    hashing: Semaphore,
    /// Sessions on disk are known.
    loaded: OnceCell<()>,
    /// A deadline of a session may be earlier than the janitor thinks.
    deadlines: Notify,
    /// Held by the one janitor of the door.
    janitor: tokio::sync::Mutex<()>,
    round: Round,
    room: retaining::Room,
    packets: Arc<Packets>,
    persistent_sessions: Arc<Gauge>,
}

impl Door {
    /// A door before one pub/sub component.
    pub fn new(
        plan: MqttPlan,
        users: Vec<MqttUserPlan>,
        pubsub: Arc<dyn PubSub>,
        clock: Clock,
    ) -> Self {
        let limits = plan.limits;
        let count = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        let connections_max = count(limits.connections_max).min(Semaphore::MAX_PERMITS);
        Self {
            users: Users::new(users, plan.allow_anonymous),
            pubsub,
            clock,
            sessions: Mutex::new(Registry::new(count(limits.sessions_max))),
            connections: Arc::new(Semaphore::new(connections_max)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            hashing: Semaphore::new(HASHING_MAX),
            loaded: OnceCell::new(),
            deadlines: Notify::new(),
            janitor: tokio::sync::Mutex::new(()),
            round: Round::default(),
            room: retaining::Room::default(),
            packets: Arc::new(Packets::new()),
            persistent_sessions: MQTT_SESSIONS.with(&[]),
            limits,
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Registry<Holder>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_sessions(&self, sessions: &Registry<Holder>) {
        self.persistent_sessions.set(i64::try_from(sessions.persistent()).unwrap_or(i64::MAX));
    }

    fn count_dropped(&self, reason: &'static str) {
        MQTT_DROPPED.with(&[reason]).inc();
    }

    fn count_refused(&self, reason: &'static str) {
        MQTT_REFUSED.with(&[reason]).inc();
    }
}

/// How the holder of a seat is asked to leave, and how to see that it has.
#[derive(Debug, Clone)]
struct Holder {
    leave: Arc<Notify>,
    gone: watch::Receiver<()>,
}

/// A client's seat in the registry. Dropping it releases the seat and tells who waits for it.
struct Seat {
    door: Arc<Door>,
    client: Arc<str>,
    /// What stays of the session.
    away: Option<Away>,
    /// Another client wants the seat.
    leave: Arc<Notify>,
    /// Dropped after the seat was released.
    _gone: watch::Sender<()>,
}

impl Seat {
    /// Takes the seat of this client, asking whoever holds it to leave. `None` when there are too
    /// many persistent sessions. Cancel safe.
    async fn take(
        door: &Arc<Door>,
        client: &Arc<str>,
        is_persistent: bool,
    ) -> Option<(Self, Option<Box<Away>>)> {
        let (gone_sender, gone) = watch::channel(());
        let leave = Arc::new(Notify::new());
        let holder = Holder { leave: leave.clone(), gone };
        loop {
            let claim = {
                let mut sessions = door.sessions();
                let claim = sessions.claim(client, holder.clone(), is_persistent);
                door.count_sessions(&sessions);
                claim
            };
            match claim {
                Claim::Granted(away) => {
                    let door = door.clone();
                    let client = client.clone();
                    let seat = Self { door, client, away: None, leave, _gone: gone_sender };
                    return Some((seat, away));
                }
                Claim::Full => return None,
                Claim::Taken(mut other) => {
                    other.leave.notify_one();
                    // An error is the news: the other end is dropped.
                    while other.gone.changed().await.is_ok() {}
                }
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut sessions = self.door.sessions();
        sessions.release(&self.client, self.away.take());
        self.door.count_sessions(&sessions);
        drop(sessions);
        self.door.deadlines.notify_one();
    }
}

/// Counters of packets by direction and type.
struct Packets {
    received: [Arc<Counter>; KINDS.len()],
    sent: [Arc<Counter>; KINDS.len()],
}

impl Packets {
    fn new() -> Self {
        let of = |direction: &str| KINDS.map(|kind| MQTT_PACKETS.with(&[direction, kind]));
        Self { received: of("received"), sent: of("sent") }
    }
}

/// One more client while it lives.
struct Connected(Arc<Gauge>);

impl Connected {
    fn new(listener: &'static str) -> Self {
        let gauge = MQTT_CONNECTIONS.with(&[listener]);
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Accepts clients until the process drains, over TLS if the door's plan says so for this listener.
pub async fn serve(
    listener: TcpListener,
    tls: Option<tls::Acceptor>,
    door: Arc<Door>,
    mut drain: Drain,
) {
    if let Err(error) = door.load().await {
        tracing::error!(%error, "MQTT sessions on disk cannot be read; clients are refused");
    }
    let connection_drain = drain.clone();
    let mut connections = JoinSet::new();
    {
        let mut janitor = std::pin::pin!(janitor::run(&door));
        let mut draining = std::pin::pin!(drain.started());
        loop {
            tokio::select! {
                () = &mut draining => break,
                () = &mut janitor => {}
                Some(ended) = connections.join_next() => report(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let client = handshake::Client { stream, peer, tls: tls.clone() };
                        spawn(&mut connections, &door, client, &connection_drain);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept an MQTT client");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
    drop(listener);
    drop(connection_drain);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn spawn(
    connections: &mut JoinSet<()>,
    door: &Arc<Door>,
    client: handshake::Client,
    drain: &Drain,
) {
    if let Ok(permit) = door.connections.clone().try_acquire_owned() {
        let (door, drain) = (door.clone(), drain.clone());
        connections.spawn(async move {
            handshake::serve(door, client, drain).await;
            drop(permit);
        });
        return;
    }
    door.count_refused("connections-max");
    if let Ok(permit) = door.refusals.clone().try_acquire_owned() {
        let door = door.clone();
        connections.spawn(async move {
            handshake::refuse(&door, client).await;
            drop(permit);
        });
    }
}

/// A connection that ended by a panic took nobody with it, but somebody should know.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an MQTT connection ended by a fault of ours");
    }
}
