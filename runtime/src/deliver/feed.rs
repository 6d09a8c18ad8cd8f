//! A subscription that is fit to be started: everything it names exists and is allowed.
//!
//! Read from its metadata:
//! - `rawPayload` (false): the app gets the bytes as they were published, in `data_base64`;
//! - `parallel` (false): messages of one topic are delivered side by side, in no order;
//! - `backlogBytesMax` (64Mi), `backlogAgeMax` (none), `overflow` (drop-oldest, or refuse),
//!   `forgetAfter` (720h): the ends of the queue, in a resource only.

use super::Redelivery;
use super::measured::Measured;
use crate::app::channel::Channel;
use crate::app::{ActiveSubscription, App};
use crate::blocks::Blocks;
use crate::resources::SubscriptionPlan;
use hyper::Uri;
use pillion_components::env::Clock;
use pillion_components::options::{Options, is_truthy};
use pillion_components::pubsub::{PubSub, QueueLimits, Subscribe, Subscription};
use pillion_components::topic::{self, Filter};
use std::sync::Arc;
use tokio::sync::OnceCell;
use tracing::warn;

/// One subscription of one app.
pub(super) struct Feed {
    pub(super) app: Arc<App>,
    pub(super) channel: Arc<Channel>,
    pub(super) component: Arc<dyn PubSub>,
    pub(super) plan: SubscriptionPlan,
    pub(super) uri: Uri,
    pub(super) redelivery: Redelivery,
    pub(super) clock: Clock,
    /// Where messages go that the app will not take.
    pub(super) dead_letter: Option<Arc<str>>,
    /// The app wants payloads as they were published.
    pub(super) wants_raw: bool,
    /// The app wants no order.
    pub(super) is_parallel: bool,
    pub(super) measured: Measured,
    /// The built-in dead-letter queue exists.
    pub(super) graveyard: OnceCell<()>,
    filter: Filter,
    limits: QueueLimits,
}

impl Feed {
    /// Checks a plan. The error says what to change.
    pub(super) fn new(
        app: &Arc<App>,
        channel: &Arc<Channel>,
        blocks: &Blocks,
        subscription: &ActiveSubscription,
        redelivery: Redelivery,
    ) -> Result<Self, String> {
        let plan = subscription.plan.clone();
        let publishing = &blocks.pubsub;
        let Some(registered) = publishing.component(app, &plan.pubsub) else {
            return Err(format!("there is no pub/sub component '{}'", plan.pubsub));
        };
        if !plan.rules.is_empty() {
            return Err("it uses routing rules, which this build does not evaluate".into());
        }
        if !publishing.may_subscribe(app, &plan.pubsub, &plan.topic) {
            return Err("the topic is not allowed for this app".into());
        }
        let filter = Filter::new(&plan.topic).map_err(|error| error.to_string())?;
        let options: Options =
            plan.metadata.iter().map(|(name, value)| (name, unquoted(value))).collect();
        // How much may wait is the operator's decision, not the app's.
        let limits = if subscription.programmatic {
            QueueLimits::default()
        } else {
            QueueLimits::from_options(&options).map_err(|error| error.to_string())?
        };
        let dead_letter = plan.dead_letter_topic.as_deref();
        let dead_letter = dead_letter.filter(|topic| is_usable(topic, blocks, app, &plan));
        Ok(Self {
            app: app.clone(),
            channel: channel.clone(),
            component: registered.component.clone(),
            uri: uri(&plan.route)?,
            redelivery,
            clock: publishing.clock().clone(),
            dead_letter: dead_letter.map(Arc::from),
            wants_raw: options.text("rawPayload").is_some_and(is_truthy),
            is_parallel: options.truthy("parallel", false),
            measured: Measured::default(),
            graveyard: OnceCell::new(),
            filter,
            limits,
            plan,
        })
    }

    /// Opens the queue. It keeps filling while nobody takes from it, restarts included: its name
    /// is made of app and topic.
    pub(super) async fn open(&self) -> pillion_components::Result<Box<dyn Subscription>> {
        let subscribe = Subscribe {
            consumer: format!("app/{}/{}", self.app.id, self.plan.topic),
            filters: vec![self.filter.clone()],
            durable: true,
            limits: self.limits.clone(),
            except_origin: None,
            metadata: self.plan.metadata.clone(),
        };
        self.component.subscribe(subscribe).await
    }
}

/// Whether the dead-letter topic can be published to, on behalf of this app.
fn is_usable(topic: &str, blocks: &Blocks, app: &App, plan: &SubscriptionPlan) -> bool {
    let is_usable =
        topic::check_name(topic).is_ok() && blocks.pubsub.may_publish(app, &plan.pubsub, topic);
    if !is_usable {
        warn!(
            app_id = &*app.id,
            pubsub = plan.pubsub,
            topic = plan.topic,
            dead_letter_topic = topic,
            "the app may not publish to this dead-letter topic: it is not used"
        );
    }
    is_usable
}

/// The path as a request's target.
fn uri(route: &str) -> Result<Uri, String> {
    let slash = if route.starts_with('/') { "" } else { "/" };
    format!("{slash}{route}").parse().map_err(|error| format!("path '{route}': {error}"))
}

/// Some SDKs write metadata values as JSON text within text: `"\"true\""`.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_get_their_slash() {
        assert_eq!(uri("orders").expect("a path").path(), "/orders");
        assert_eq!(uri("/a?b=c").expect("a path").query(), Some("b=c"));
        assert!(uri("/a b").is_err());
    }
}
