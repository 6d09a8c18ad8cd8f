//! Service invocation, and every path that no other API knows.

use super::Call;
use crate::blocks::Blocks;
use crate::body::Body;
use hyper::Response;

/// `ANY /v1.0/invoke/{id}/method/{path…}`; `rest` is what follows `invoke/`, not decoded, from
/// the request's own path (double slashes still in it).
pub(super) async fn by_path(_call: Call, _blocks: &Blocks, _rest: &str) -> Response<Body> {
    unimplemented!()
}

/// Any other path: the header `dapr-app-id` or basic authentication names the app, else 404.
pub(super) async fn by_header(_call: Call, _blocks: &Blocks) -> Response<Body> {
    unimplemented!()
}
