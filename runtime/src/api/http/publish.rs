//! `/v1.0/publish`.

use super::Call;
use crate::blocks::Blocks;
use crate::body::Body;
use hyper::Response;

/// `POST|PUT /v1.0/publish/{pubsub}/{topic…}`; `rest` is what follows `publish/`, not decoded.
pub(super) async fn one(_call: Call, _blocks: &Blocks, _rest: &str) -> Response<Body> {
    unimplemented!()
}

/// `POST|PUT /v1.0/publish/bulk/{pubsub}/{topic…}`; `rest` is what follows `bulk/`, not decoded.
pub(super) async fn bulk(_call: Call, _blocks: &Blocks, _rest: &str) -> Response<Body> {
    unimplemented!()
}
