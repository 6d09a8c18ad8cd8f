//! Answers of the APIs whose building blocks have no component here: what each says when nothing
//! of its kind is configured.

use super::error;
use super::route::Kind;
use super::unescape;
use crate::app::App;
use crate::body::Body;
use crate::error::{Code, Error, Grpc};
use hyper::Response;

const BINDING: Code = Code::plain("ERR_INVOKE_OUTPUT_BINDING", 500, Grpc::Internal);
#[cfg(not(feature = "crypto"))]
const CRYPTO: Code = Code::plain("ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", 500, Grpc::Internal);
const ACTOR: Code = Code::plain("ERR_ACTOR_NO_PLACEMENT", 400, Grpc::Unavailable);
const CONVERSATION: Code = Code::plain("ERR_CONVERSATION_NOT_FOUND", 400, Grpc::InvalidArgument);

/// The answer of one of these APIs; `name` is the component's, still encoded.
pub(super) fn answer(app: &App, kind: Kind, name: &str) -> Response<Body> {
    error(&match kind {
        Kind::Binding => {
            let name = unescape(name);
            let what = format!(
                "error invoking output binding {name}: couldn't find output binding {name}"
            );
            Error::new(BINDING, what)
        }
        #[cfg(not(feature = "crypto"))]
        Kind::Crypto => Error::new(CRYPTO, "crypto providers not configured"),
        Kind::JobSchedule => job(app, "schedule", "DAPR_SCHEDULER_SCHEDULE_JOB"),
        Kind::JobGet => job(app, "get", "DAPR_SCHEDULER_GET_JOB"),
        Kind::JobDelete => job(app, "delete", "DAPR_SCHEDULER_DELETE_JOB"),
        Kind::Conversation => {
            let what = format!("failed finding conversation component {}", unescape(name));
            Error::new(CONVERSATION, what)
        }
        // Actors and the workflows built on them.
        _ => Error::new(ACTOR, "placement service is not configured"),
    })
}

fn job(app: &App, verb: &str, tag: &'static str) -> Error {
    let what = format!("failed to {verb} job due to: scheduler clients are disabled");
    Error::new(Code::rich(tag, 500, Grpc::Internal, tag), what)
        .info("appID", &*app.id)
        .info("namespace", &*app.namespace)
}
