//! `/v1.0/healthz`.

use super::{empty, error};
use crate::app::App;
use crate::body::Body;
use crate::error::{Code, Error, Grpc};
use hyper::{Response, StatusCode};

const NOT_READY: Code = Code::plain("ERR_HEALTH_NOT_READY", 500, Grpc::Internal);
const OUTBOUND_NOT_READY: Code = Code::plain("ERR_OUTBOUND_HEALTH_NOT_READY", 500, Grpc::Internal);
const OTHER_APP: Code = Code::plain("ERR_HEALTH_APPID_NOT_MATCH", 500, Grpc::Internal);

/// Whether everything is up, and, where the caller gave an id, whether this is its app.
pub(super) fn all(app: &App, wanted: Option<&str>) -> Response<Body> {
    if !app.ready.is_all() {
        let target = if app.ready.is_outbound() { "app" } else { "outbound" };
        let message = format!("dapr is not ready: [{target}]");
        return error(&Error::new(NOT_READY, message));
    }
    if wanted.is_some_and(|id| !id.is_empty() && *id != *app.id) {
        return error(&Error::new(OTHER_APP, "dapr app-id does not match"));
    }
    empty(StatusCode::NO_CONTENT)
}

/// Whether the app may call, which does not wait for the app.
pub(super) fn outbound(app: &App) -> Response<Body> {
    if app.ready.is_outbound() {
        empty(StatusCode::NO_CONTENT)
    } else {
        error(&Error::new(OUTBOUND_NOT_READY, "dapr outbound is not ready"))
    }
}
