//! What every secret store must do, as functions that take any of them.

#![allow(dead_code, unused_macros, reason = "each test file uses a part")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests; a seed is shown on failure")]

use pillion_components::secrets::SecretStore;
use std::sync::Arc;

/// A store under test.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn SecretStore>,
    /// Secrets that it has: name, key, value.
    pub(crate) has: &'static [(&'static str, &'static str, &'static str)],
    /// A missing secret has an empty value instead of being an error.
    pub(crate) missing_is_empty: bool,
}

pub(crate) async fn a_secret_is_read_by_its_name(subject: Subject) {
    for (name, key, value) in subject.has {
        let secret = subject.store.get(name).await.unwrap().expect("a secret");
        assert_eq!(secret.get(*key).map(String::as_str), Some(*value), "{name}");
    }
}

pub(crate) async fn a_missing_secret_is_named(subject: Subject) {
    for name in ["not there", "", "a=b", "a\0b", "../x"] {
        match subject.store.get(name).await {
            Ok(Some(secret)) => {
                assert!(subject.missing_is_empty);
                assert!(secret.iter().all(|(key, value)| key == name && value.is_empty()));
            }
            Ok(None) => panic!("neither a secret nor an error"),
            Err(error) => {
                assert!(!subject.missing_is_empty);
                assert_eq!(error.kind(), pillion_components::Kind::NotFound);
                assert_eq!(error.message(), format!("secret {name} not found"));
            }
        }
    }
}

pub(crate) async fn all_of_them_are_those_that_are_read_one_by_one(subject: Subject) {
    let all = subject.store.bulk_get().await.unwrap();
    for (name, key, value) in subject.has {
        let secret = all.get(*name).expect("a secret");
        assert_eq!(secret.get(*key).map(String::as_str), Some(*value), "{name}");
    }
    for (name, secret) in &all {
        assert_eq!(subject.store.get(name).await.unwrap().as_ref(), Some(secret), "{name}");
    }
}

/// One test per case for a provider.
macro_rules! conformance {
    ($provider:ident, $make:path) => {
        mod $provider {
            conformance!(@cases $make;
                a_secret_is_read_by_its_name
                a_missing_secret_is_named
                all_of_them_are_those_that_are_read_one_by_one
            );
        }
    };
    (@cases $make:path; $($case:ident)+) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::suite::$case($make()).await;
        })+
    };
}
