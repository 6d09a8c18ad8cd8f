//! HTTP/2 without TLS, for clients that begin with it.

use super::io::Io;
use super::{Watch, converse};
use crate::api::http::request::Service;
use crate::drain::Drain;
use crate::resources::Limits;
use hyper::server::conn::http2::{Builder, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_components::options::is_truthy;
use std::pin::pin;

/// Requests at a time on one connection.
const STREAMS_MAX: u32 = 100;

/// Bytes that a client may send ahead on a connection, and on one stream of it.
const WINDOW_BYTES: u32 = 256 << 10;

/// Settings of the protocol, made once.
pub(super) struct Http2(Builder<TokioExecutor>);

impl Http2 {
    /// `None` when `DAPR_HTTP_DISABLE_H2C` is true.
    pub(super) fn new(limits: &Limits) -> Option<Self> {
        if std::env::var("DAPR_HTTP_DISABLE_H2C").is_ok_and(|text| is_truthy(&text)) {
            return None;
        }
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        Some(Self(builder))
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(&self, io: Io, service: Service, watch: Watch<'_>, drain: Drain) {
        let connection = pin!(self.0.serve_connection(TokioIo::new(io), service));
        converse(connection, Connection::graceful_shutdown, watch, drain).await;
    }
}
