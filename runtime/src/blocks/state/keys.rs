//! Prefixes of keys: how apps that share a store stay apart in it.

use crate::app::App;
use crate::blocks::Registered;
use crate::error::{Code, Error, Grpc, Result};
use pillion_components::Kind;
use pillion_components::options::Options;
use std::sync::Arc;

/// What stands between prefix and key.
const SEPARATOR: &str = "||";

/// The namespace of an app that has been given none.
const NAMESPACE_DEFAULT: &str = "default";

const ILLEGAL: Code =
    Code::rich("ERR_MALFORMED_REQUEST", 400, Grpc::InvalidArgument, "DAPR_STATE_ILLEGAL_KEY");

/// The rule of one store, its setting `keyPrefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// `appid`, the default: each app has its own keys.
    AppId,
    /// `namespace`: as `appid`, with the app's namespace before it if it was given one.
    Namespace,
    /// `name`: apps share the keys; two stores on one database have keys of their own.
    Name(Arc<str>),
    /// `none`: keys as they are.
    None,
    /// Any other text.
    Text(String),
}

impl Keys {
    /// The rule of a store.
    pub(in crate::blocks) fn of<C: ?Sized>(registered: &Registered<C>) -> Self {
        let text = registered.options.text("keyPrefix").unwrap_or("appid");
        match text.to_ascii_lowercase().as_str() {
            "appid" => Keys::AppId,
            "namespace" => Keys::Namespace,
            "name" => Keys::Name(registered.name.clone()),
            "none" => Keys::None,
            _ => Keys::Text(text.to_owned()),
        }
    }

    /// Checks the setting, for those who open a store.
    pub fn check(options: &Options) -> pillion_components::Result<()> {
        match options.text("keyPrefix") {
            Some(text) if text.contains(SEPARATOR) => Err(pillion_components::Error::new(
                Kind::Invalid,
                format!("input key/keyPrefix '{text}' can't contain '{SEPARATOR}'"),
            )),
            _ => Ok(()),
        }
    }

    /// The key as the store `store` knows it.
    pub(super) fn whole(&self, app: &App, store: &str, key: &str) -> Result<String> {
        self.prefixed(app, key).ok_or_else(|| illegal(store, key))
    }

    /// The key with its prefix; `None` for one that holds what stands between the two.
    pub(in crate::blocks) fn prefixed(&self, app: &App, key: &str) -> Option<String> {
        if key.contains(SEPARATOR) {
            return None;
        }
        let prefix = match self {
            Keys::AppId => &*app.id,
            Keys::Namespace if &*app.namespace == NAMESPACE_DEFAULT => &*app.id,
            Keys::Namespace => return Some(format!("{}.{}||{key}", app.namespace, app.id)),
            Keys::Name(name) => name,
            Keys::None => return Some(key.to_owned()),
            Keys::Text(text) => text,
        };
        let mut whole = String::with_capacity(prefix.len() + SEPARATOR.len() + key.len());
        whole.push_str(prefix);
        whole.push_str(SEPARATOR);
        whole.push_str(key);
        Some(whole)
    }
}

fn illegal(store: &str, key: &str) -> Error {
    let message = format!(
        "api error: code = InvalidArgument desc = input key/keyPrefix '{key}' can't contain '||'"
    );
    Error::new(ILLEGAL, message.clone()).violation(key, message).resource("state", store)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Access;

    #[test]
    fn each_rule_has_its_prefix() {
        let app = App::new("app1", "prod", None, Access::default(), None);
        let plain = App::new("app1", "default", None, Access::default(), None);
        for (keys, app, expected) in [
            (Keys::AppId, &app, "app1||k"),
            (Keys::Namespace, &app, "prod.app1||k"),
            (Keys::Namespace, &plain, "app1||k"),
            (Keys::Name("store".into()), &app, "store||k"),
            (Keys::None, &app, "k"),
            (Keys::Text("shared".into()), &app, "shared||k"),
        ] {
            assert_eq!(keys.whole(app, "store", "k").unwrap(), expected);
        }
        assert!(Keys::None.whole(&app, "store", "a||b").is_err());
    }
}
