//! In place of [`http2`](super) in a build without that feature: every client is spoken to in
//! HTTP/1.1.

use super::Watch;
use super::io::Io;
use crate::api::http::request::Service;
use crate::drain::Drain;
use crate::resources::Limits;

/// There is none.
pub(super) enum Http2 {}

impl Http2 {
    pub(super) fn new(_limits: &Limits) -> Option<Self> {
        None
    }

    pub(super) async fn serve(&self, _: Io, _: Service, _: Watch<'_>, _: Drain) {
        match *self {}
    }
}
