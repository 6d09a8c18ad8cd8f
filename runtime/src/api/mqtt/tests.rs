//! The door over real sockets, before a component whose syncs the test controls.

mod clients;
mod doors;
mod fake;
mod messages;
mod peer;
mod sessions;
