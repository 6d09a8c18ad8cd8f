//! Bindings: what an app makes happen outside, and what happens outside that the app is told.
//!
//! The block finds the binding an app names, checks that the app may use it, and says in Dapr's
//! words what went wrong. Delivering events stands beside the blocks, in `deliver`.

use super::record::{Families, Recorder};
use super::{BindingsByName, Registered};
use crate::app::App;
use crate::error::{Code, Error, Grpc, Result, status_of};
use crate::observe::metrics::families::{OUTPUT_BINDING_COUNT, OUTPUT_BINDING_LATENCY};
use crate::observe::trace::TraceContext;
use bytes::Bytes;
use pillion_components::Kind;
use pillion_components::bindings::{Binding, InputBinding, OutputBinding, Pairs, Request};
use pillion_components::pubsub::QueueStatus;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

const INVOKE: Code = Code::plain("ERR_INVOKE_OUTPUT_BINDING", 500, Grpc::Internal);

/// The block.
pub struct Bindings {
    bindings: BindingsByName,
    recorders: BTreeMap<Arc<str>, Recorder>,
}

/// What an app asks a binding to do.
pub struct Invocation<'a> {
    /// Name of the operation; may be empty, which is refused.
    pub operation: &'a str,
    /// The bytes for it.
    pub data: Bytes,
    /// Settings of this call.
    pub metadata: Pairs,
    /// The trace it belongs to.
    pub trace: &'a TraceContext,
}

/// What came of it.
pub struct Invoked {
    /// The answer's bytes, `None` where there are none, or why it was not done.
    pub result: Result<Option<Bytes>>,
    /// What the other side said, in either case.
    pub metadata: Pairs,
}

/// An input binding that an app may be told of.
#[derive(Clone)]
pub struct Input {
    /// Name of the component.
    pub name: Arc<str>,
    /// The app's path for its events, without the slash at its beginning.
    pub route: String,
    /// The app need not be asked whether it wants them.
    pub is_certain: bool,
    /// Where they come from.
    pub binding: Arc<dyn InputBinding>,
}

impl Bindings {
    /// These bindings.
    pub fn new(bindings: BindingsByName) -> Self {
        let recorder = |registered: &Registered<Binding>| {
            let families =
                Families { count: &OUTPUT_BINDING_COUNT, latency: &OUTPUT_BINDING_LATENCY };
            (registered.name.clone(), Recorder::new(families, registered.name.clone()))
        };
        let recorders = bindings.all().map(recorder).collect();
        Self { bindings, recorders }
    }

    /// Has a binding do something.
    pub async fn invoke(&self, app: &App, name: &str, invocation: Invocation<'_>) -> Invoked {
        let refused = |why: String| Invoked {
            result: Err(failed(INVOKE, name, &why)),
            metadata: Pairs::new(),
        };
        if invocation.operation.is_empty() {
            return refused("operation field is missing from request".to_owned());
        }
        let Some(output) = self.output(app, name) else {
            return refused(format!("couldn't find output binding {name}"));
        };
        let operations = output.operations();
        let known = operations.iter().find(|known| **known == invocation.operation);
        let Some(operation) = known.copied() else {
            let Invocation { operation, .. } = invocation;
            let supported = operations.join(" ");
            return refused(format!(
                "binding {name} does not support operation {operation}. \
                 supported operations:{supported}"
            ));
        };
        let metadata = traced(invocation.metadata, invocation.trace);
        let request = Request { operation, data: invocation.data, metadata };
        let started = Instant::now();
        let result = output.invoke(request).await;
        if let Some(recorder) = self.recorders.get(name) {
            recorder.record(app, operation, result.is_ok(), started.elapsed());
        }
        match result {
            Ok(answer) => Invoked { result: Ok(answer.data), metadata: answer.metadata },
            Err(failure) => {
                let code = code_of(failure.error.kind());
                let error = failed(code, name, &failure.error);
                Invoked { result: Err(error), metadata: failure.metadata }
            }
        }
    }

    fn output(&self, app: &App, name: &str) -> Option<&dyn OutputBinding> {
        self.bindings.get(app, name)?.component.output.as_deref()
    }

    /// The input bindings that an app may be told of, by name.
    pub fn inputs(&self, app: &App) -> Vec<Input> {
        let input = |registered: &Registered<Binding>| {
            let Binding { input, input_is_certain, route, .. } = &*registered.component;
            Some(Input {
                name: registered.name.clone(),
                route: route.clone(),
                is_certain: *input_is_certain,
                binding: input.clone()?,
            })
        };
        self.bindings.visible_to(app).filter_map(input).collect()
    }

    /// Lets every binding finish what it does by itself, within `limit`. Whether all could.
    pub async fn rest(&self, limit: Duration) -> bool {
        let outputs = self.bindings.all().filter_map(|one| one.component.output.as_ref());
        let resting = async {
            for output in outputs {
                output.rest().await;
            }
        };
        timeout(limit, resting).await.is_ok()
    }

    /// The queues before output bindings, by the binding's name.
    pub fn queues(&self) -> Vec<(Arc<str>, QueueStatus)> {
        let queue = |registered: &Registered<Binding>| {
            let output = registered.component.output.as_ref()?;
            Some((registered.name.clone(), output.queue()?))
        };
        self.bindings.all().filter_map(queue).collect()
    }
}

fn failed(code: Code, name: &str, why: &impl std::fmt::Display) -> Error {
    Error::new(code, format!("error invoking output binding {name}: {why}"))
}

/// Where the component's kind says that it is about room and not about the target, its status.
fn code_of(kind: Kind) -> Code {
    match kind {
        Kind::Full | Kind::Overloaded => {
            let (http, grpc) = status_of(kind);
            INVOKE.with_status(http, grpc)
        }
        _ => INVOKE,
    }
}

/// The trace goes along; a caller's own words for it do not come before it.
fn traced(mut metadata: Pairs, trace: &TraceContext) -> Pairs {
    metadata.retain(|(name, _)| name != "traceparent" && name != "tracestate");
    metadata.push(("traceparent".to_owned(), trace.child().traceparent().to_string()));
    if let Some(state) = trace.state() {
        metadata.push(("tracestate".to_owned(), state.to_owned()));
    }
    metadata
}
