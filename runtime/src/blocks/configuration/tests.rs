//! What an app is told when a store fails, and whose subscriptions are whose.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::app::channel::Channel;
use crate::resources::{Access, ChannelPlan};
use async_trait::async_trait;
use pillion_components::configuration::{Change, Changes};
use pillion_components::options::Options;

/// A store that never has anything, or fails with a text.
struct Store(Option<&'static str>);

/// Changes that never come.
struct Never;

#[async_trait]
impl Changes for Never {
    async fn next(&mut self) -> pillion_components::Result<Change> {
        std::future::pending().await
    }
}

impl Store {
    fn answer<T>(&self, good: T) -> pillion_components::Result<T> {
        self.0.map_or(Ok(good), |why| Err(ComponentError::new(Kind::Unavailable, why)))
    }
}

#[async_trait]
impl ConfigurationStore for Store {
    async fn get(&self, _: &[String]) -> pillion_components::Result<BTreeMap<String, Item>> {
        self.answer(BTreeMap::new())
    }

    async fn subscribe(&self, _: &[String]) -> pillion_components::Result<Box<dyn Changes>> {
        self.answer(Box::new(Never))
    }
}

fn block() -> Configuration {
    let mut stores = ConfigurationStores::default();
    for (name, fails) in [("good", None), ("bad", Some("the disk is gone"))] {
        stores.insert(Registered {
            name: name.into(),
            type_name: "configuration.test".into(),
            version: "v1".into(),
            options: Arc::new(Options::default()),
            scopes: Vec::new(),
            component: Arc::new(Store(fails)) as Arc<dyn ConfigurationStore>,
        });
    }
    Configuration::new(stores)
}

/// An app with a channel that nobody calls here.
fn app(id: &str) -> Arc<App> {
    let plan = ChannelPlan {
        app_id: id.into(),
        host: "127.0.0.1".into(),
        port: 1,
        tls: false,
        max_concurrency: None,
        token: None,
        health: None,
    };
    let channel = Some(Arc::new(Channel::new(plan)));
    Arc::new(App::new(id, "default", None, Access::default(), channel))
}

fn keys(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[tokio::test]
async fn a_failure_names_keys_and_store() {
    let (block, app) = (block(), app("app1"));
    let failed = block.get(&app, "bad", &keys(&["a", "b"])).await.unwrap_err();
    assert_eq!((failed.code().tag, failed.code().http), ("ERR_CONFIGURATION_GET", 500));
    let expected = "failed to get [a b] from Configuration store bad: the disk is gone";
    assert_eq!(failed.message(), expected);
    let failed = block.subscribe(&app, "bad", &[]).await.unwrap_err();
    assert_eq!((failed.code().tag, failed.code().http), ("ERR_CONFIGURATION_SUBSCRIBE", 500));
    let expected = "failed to subscribe [] from Configuration store bad: the disk is gone";
    assert_eq!(failed.message(), expected);
    let many = vec!["k".to_owned(); KEYS_MAX + 1];
    let failed = block.get(&app, "good", &many).await.unwrap_err();
    assert_eq!((failed.code().tag, failed.code().http), ("ERR_CONFIGURATION_GET", 413));
    let failed = block.subscribe(&app, "good", &many).await.unwrap_err();
    assert_eq!((failed.code().tag, failed.code().http), ("ERR_CONFIGURATION_SUBSCRIBE", 413));
}

#[tokio::test]
async fn an_app_ends_its_own_subscriptions_only() {
    let (block, one, two) = (block(), app("one"), app("two"));
    let id = block.subscribe(&one, "good", &[]).await.unwrap();
    assert!(!block.unsubscribe(&two, "good", &id).unwrap());
    assert!(!block.unsubscribe(&one, "bad", &id).unwrap());
    assert!(block.unsubscribe(&one, "good", &id).unwrap());
    assert!(!block.unsubscribe(&one, "good", &id).unwrap());

    let mine = block.subscribe(&one, "good", &[]).await.unwrap();
    let others = block.subscribe(&two, "good", &[]).await.unwrap();
    block.forget(&one);
    assert!(!block.unsubscribe(&one, "good", &mine).unwrap());
    assert!(block.unsubscribe(&two, "good", &others).unwrap());
}
