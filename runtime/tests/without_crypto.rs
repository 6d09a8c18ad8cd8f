//! A build without the feature `crypto`: a component that needs it is refused by name.

#![cfg(not(feature = "crypto"))]

use pillion::cli;
use pillion_components::WITHOUT_CRYPTO;

#[test]
fn a_crypto_component_needs_a_build_with_cryptography() {
    let path = std::env::temp_dir().join(format!("pillion-crypto-{}.yaml", std::process::id()));
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: vault}\n\
                spec: {type: crypto.dapr.localstorage, version: v1}\n";
    std::fs::write(&path, text).expect("a writable temporary directory");
    let (text, code) = cli::check(std::slice::from_ref(&path));
    std::fs::remove_file(&path).expect("a file of ours");
    assert!(code != 0 && text.contains(WITHOUT_CRYPTO), "{text}");
}
