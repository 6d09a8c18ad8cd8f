//! The secrets suite over every row of the catalogue.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "suite/secrets.rs"]
#[macro_use]
mod suite;

use pillion_components::options::Options;
use pillion_components::secrets::{SecretStore, local_env, local_file};
use std::sync::Arc;
use suite::Subject;

/// The file of the recorded exchanges.
const FILE: &str =
    r#"{"top": "secret", "nested": {"a": {"b": "deep"}, "list": [1, "two"]}, "num": 5}"#;

fn file(more: &[(&str, &str)]) -> Arc<dyn SecretStore> {
    let name = format!("pillion-secrets-{}.json", pillion_components::env::uuid());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, FILE).unwrap();
    let options = [("secretsFile", path.to_str().unwrap())].into_iter();
    let options: Options = options.chain(more.iter().copied()).collect();
    let store = local_file::open(&options).unwrap();
    // It was read when it was opened.
    std::fs::remove_file(path).unwrap();
    store
}

fn flat() -> Subject {
    let has = &[
        ("top", "top", "secret"),
        ("nested:a:b", "nested:a:b", "deep"),
        ("nested:list:0", "nested:list:0", "1"),
        ("num", "num", "5"),
    ];
    Subject { store: file(&[]), has, missing_is_empty: false }
}

fn separated() -> Subject {
    let has = &[("nested.a.b", "nested.a.b", "deep")];
    Subject { store: file(&[("nestedSeparator", ".")]), has, missing_is_empty: false }
}

fn multi_valued() -> Subject {
    let has = &[
        ("top", "top", "secret"),
        ("nested", "a:b", "deep"),
        ("nested", "list:0", "1"),
        ("nested", "list:1", "two"),
    ];
    Subject { store: file(&[("multiValued", "true")]), has, missing_is_empty: false }
}

/// Cargo sets these variables for every test.
fn environment() -> Subject {
    let store = local_env::open(&Options::default()).unwrap();
    let has = &[("CARGO_PKG_NAME", "CARGO_PKG_NAME", "pillion-components")];
    Subject { store, has, missing_is_empty: true }
}

fn prefixed() -> Subject {
    let options: Options = [("prefix", "CARGO_PKG_")].into_iter().collect();
    let store = local_env::open(&options).unwrap();
    Subject { store, has: &[("NAME", "NAME", "pillion-components")], missing_is_empty: true }
}

conformance!(file_flat, crate::flat);
conformance!(file_with_a_separator, crate::separated);
conformance!(file_multi_valued, crate::multi_valued);
conformance!(environment_whole, crate::environment);
conformance!(environment_with_a_prefix, crate::prefixed);

#[tokio::test]
async fn what_lies_below_a_secret_is_not_one() {
    assert!(flat().store.get("nested").await.is_err());
    assert!(multi_valued().store.get("nested:a:b").await.is_err());
}

#[test]
fn only_a_multi_valued_file_says_so() {
    assert_eq!(multi_valued().store.capabilities(), ["MULTIPLE_KEY_VALUES_PER_SECRET"]);
    assert!(
        flat().store.capabilities().is_empty() && environment().store.capabilities().is_empty()
    );
}
