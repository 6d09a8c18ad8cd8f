//! MQTT's rules without I/O.
//!
//! [`session::Session`] is the state machine of one client: packets, deliveries and results of
//! publishes go in, [`session::Action`]s come out. [`registry::Registry`] knows every session of
//! the door: who is connected, who is away and until when. [`connect`] judges a CONNECT,
//! [`access`] who may do what, [`subscriptions`] what a session gets and how, [`message`] is the
//! border between packets and messages, [`record`] what a persistent session leaves on disk.
//! There is no socket, clock or task in here; the driver is [`crate::api::mqtt`].

pub(crate) mod access;
pub(crate) mod connect;
pub(crate) mod message;
pub(crate) mod packet;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod simulation;
pub(crate) mod subscriptions;

/// Longest client id in bytes: with every byte escaped it still fits a topic level of a record.
pub(crate) const CLIENT_ID_BYTES_MAX: usize = 256;

/// Topic aliases a client may set. Each keeps one topic name alive in memory.
pub(crate) const TOPIC_ALIASES_MAX: u16 = 16;

/// Longest keep-alive of an MQTT 5 client, in seconds, and what one that wants none is told: a
/// half-open connection ends some day.
pub(crate) const KEEP_ALIVE_MAX_S: u16 = 3600;

/// QoS 2 messages of one client that are published and not yet released. Only a 3.1.1 client,
/// which knows no receive maximum, can come here.
pub(crate) const RECEIVED_MAX: usize = 1024;

/// Retained messages that one SUBSCRIBE brings; the rest is left out, counted and logged.
pub(crate) const RETAINED_PER_SUBSCRIBE_MAX: usize = 1000;

/// Bytes that wait for a slow reader's socket; a QoS 0 message beyond that is dropped and counted.
pub(crate) const OUTBOX_BYTES_MAX: usize = 256 << 10;

/// Bytes that wait for a socket beyond which nothing more is taken from a durable queue: there it
/// is safe.
pub(crate) const OUTBOX_BYTES_SOFT: usize = 64 << 10;
