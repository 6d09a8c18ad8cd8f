//! Topics an app has published to: what is worked out at the first publication and kept.

use crate::app::App;
use crate::observe::metrics::families::{PUBSUB_EGRESS_COUNT, PUBSUB_EGRESS_LATENCY};
use crate::observe::metrics::{Counter, Histogram};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Most outlets kept for one component. A topic beyond it is worked out anew each time.
pub(crate) const OUTLETS_MAX: usize = 1024;

/// A topic that an app may publish to. Scopes never change while the process runs, so that an
/// outlet once made stays good.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// The checked topic.
    pub(crate) topic: Arc<str>,
    /// Who publishes, as [`pillion_components::pubsub::Message::origin`] says it.
    pub(crate) origin: Arc<str>,
    succeeded: OnceLock<Series>,
}

#[derive(Debug)]
struct Series {
    count: Arc<Counter>,
    latency: Arc<Histogram>,
}

impl Outlet {
    /// Counts one publication.
    pub(crate) fn record(&self, app: &App, component: &str, ok: bool, elapsed: Duration) {
        let make = |success: &str| {
            let labels = [&*app.id, component, &*app.namespace, success, &*self.topic];
            Series {
                count: PUBSUB_EGRESS_COUNT.with(&labels),
                latency: PUBSUB_EGRESS_LATENCY.with(&labels),
            }
        };
        if ok {
            self.succeeded.get_or_init(|| make("true")).add(elapsed);
        } else {
            make("false").add(elapsed);
        }
    }
}

impl Series {
    fn add(&self, elapsed: Duration) {
        self.count.inc();
        self.latency.observe(elapsed);
    }
}

/// The outlets of one component.
#[derive(Debug, Default)]
pub(crate) struct Outlets {
    by_app: Mutex<ByApp>,
}

#[derive(Debug, Default)]
struct ByApp {
    outlets: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Outlet>>>,
    count: usize,
}

impl Outlets {
    /// The outlet made before.
    pub(crate) fn get(&self, app_id: &str, topic: &str) -> Option<Arc<Outlet>> {
        let by_app = self.by_app.lock().unwrap_or_else(PoisonError::into_inner);
        by_app.outlets.get(app_id)?.get(topic).cloned()
    }

    /// A new outlet, kept while there is room.
    pub(crate) fn add(&self, app_id: &Arc<str>, topic: &str) -> Arc<Outlet> {
        let outlet = Arc::new(Outlet {
            topic: topic.into(),
            origin: format!("app:{app_id}").into(),
            succeeded: OnceLock::new(),
        });
        let mut by_app = self.by_app.lock().unwrap_or_else(PoisonError::into_inner);
        if by_app.count < OUTLETS_MAX {
            by_app.count += 1;
            let topics = by_app.outlets.entry(app_id.clone()).or_default();
            topics.insert(outlet.topic.clone(), outlet.clone());
        }
        outlet
    }
}
