//! Keys from files, sets and addresses, and how a message names its own.

use crate::{decrypt, encrypt, encrypting, request, setup};
use pillion_tests::{App, Setup, json, until};
use serde_json::Value;

const SET: &str =
    r#"{"keys":[{"kty":"oct","kid":"a","k":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#;

fn manifest(encrypted: &[u8]) -> Value {
    let line = encrypted.split(|byte| *byte == b'\n').nth(1).expect("a second line");
    serde_json::from_slice(line).expect("a manifest")
}

#[tokio::test]
async fn every_algorithm_cipher_and_alias_works_both_ways() {
    let pillion = setup().start().await;
    for (key, algorithm, number) in [
        ("sym.b64", "A256KW", 1),
        ("sym.b64", "aes", 1),
        ("other", "AES", 1),
        ("rsa.pem", "RSA-OAEP-256", 5),
        ("rsa.pem", "Rsa", 5),
    ] {
        for (cipher, cipher_number) in
            [("", 1), ("aes-gcm", 1), ("chacha20-poly1305", 2), ("ChaCha20-Poly1305", 2)]
        {
            let mut asked = encrypting(key, algorithm).body("attack at dawn");
            if !cipher.is_empty() {
                asked = asked.header("dapr-data-encryption-cipher", cipher);
            }
            let answer = pillion.send(asked).await;
            assert_eq!(answer.status, 200, "{key} {algorithm} {cipher}: {}", answer.text());
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            let manifest = manifest(&answer.body);
            assert_eq!(
                (&manifest["kw"], &manifest["cph"]),
                (&number.into(), &cipher_number.into())
            );
            assert_eq!(manifest["k"], key);
            let decrypted = decrypt(&pillion, &answer.body).await;
            assert_eq!((decrypted.status, &*decrypted.text()), (200, "attack at dawn"));
            assert_eq!(decrypted.header("content-type"), Some("application/octet-stream"));
        }
    }
    // Two messages are never the same.
    let (one, two) = tokio::join!(
        encrypt(&pillion, "sym.b64", "AES", b"x"),
        encrypt(&pillion, "sym.b64", "AES", b"x")
    );
    assert_ne!(one, two);
    let metadata = pillion.get("/v1.0/metadata").await.json();
    let shown = &metadata["components"][0];
    assert_eq!((&shown["name"], &shown["version"]), (&"vault".into(), &"v1".into()), "{metadata}");
    assert_eq!(shown["type"], "crypto.dapr.localstorage", "{metadata}");
    let metrics = pillion.metrics().await;
    let series = "dapr_component_crypto_count{app_id=\"app1\",component=\"vault\",\
                  namespace=\"default\",operation=\"crypto_op\",success=\"true\"} 42";
    assert!(metrics.contains(series), "{metrics}");
    assert!(metrics.contains("dapr_component_crypto_latencies_bucket"), "{metrics}");
}

#[tokio::test]
async fn a_message_names_its_key_or_not() {
    let pillion = setup().start().await;
    let omit = "dapr-omit-decryption-key-name";
    let other = "dapr-decryption-key-name";
    for (headers, named, right) in [
        (&[][..], Some("sym.b64"), true),
        (&[(omit, "false")], Some("sym.b64"), true),
        (&[(omit, "yes")], None, false),
        (&[(omit, "1"), (other, "other")], None, false),
        (&[(other, "other")], Some("other"), false),
    ] {
        let mut asked = encrypting("sym.b64", "AES").body("x");
        for (name, value) in headers {
            asked = asked.header(name, value);
        }
        let answer = pillion.send(asked).await;
        assert_eq!(manifest(&answer.body)["k"].as_str(), named, "{headers:?}");
        let plain = decrypt(&pillion, &answer.body).await;
        assert_eq!(plain.status == 200, right, "{headers:?}");
        // A name given beside the message counts, whatever the message says.
        let given = request("decrypt", &[("dapr-key-name", "sym.b64")]);
        let plain = pillion.send(given.body(answer.body.clone())).await;
        assert_eq!((plain.status, &*plain.text()), (200, "x"), "{headers:?}");
        let wrong = request("decrypt", &[("dapr-key-name", "other")]);
        let refused = pillion.send(wrong.body(answer.body)).await;
        assert_eq!(refused.status, 500, "{headers:?}");
    }
}

fn jwks(value: &str, more: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: vault}}\nspec:\n  \
         type: crypto.dapr.jwks\n  version: v1\n  metadata:\n  - {{name: jwks, value: '{value}'}}\n{more}"
    )
}

#[tokio::test]
async fn sets_come_from_text_files_and_addresses() {
    use base64::Engine as _;
    let desk = App::start(|_asked| json(200, SET)).await;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SET);
    let mut messages = Vec::new();
    let mut running = Vec::new();
    for value in [
        SET.to_owned(),
        encoded,
        "{dir}/set".into(),
        format!("http://127.0.0.1:{}/set?v=1", desk.port),
    ] {
        let setup = Setup::new().file("set", SET);
        let value = value.replace("{dir}", &setup.dir().display().to_string());
        let pillion = setup.resource("vault.yaml", &jwks(&value, "")).start().await;
        messages.push(encrypt(&pillion, "a", "AES", value.as_bytes()).await);
        running.push((pillion, value));
    }
    assert_eq!(desk.asked().len(), 1);
    assert_eq!(desk.asked()[0].path, "/set?v=1");
    for (message, (_, value)) in messages.iter().zip(&running) {
        for (pillion, _) in &running {
            assert_eq!(decrypt(pillion, message).await.text(), *value);
        }
    }
}

/// A process whose keys cannot be had does not start, unless it is told to ignore that.
#[tokio::test]
async fn an_address_that_does_not_answer_ends_the_start() {
    let desk = App::start(|_asked| json(503, "{}")).await;
    let url = format!("http://127.0.0.1:{}/set", desk.port);
    let mut pillion = Setup::new().resource("vault.yaml", &jwks(&url, "")).spawn();
    assert!(!pillion.ended().await.success());
    let log = pillion.log();
    assert!(log.contains(&url) && log.contains("503"), "{log}");

    let ignoring = jwks(&url, "  ignoreErrors: true\n");
    let pillion = Setup::new().resource("vault.yaml", &ignoring).start().await;
    let answer = pillion.send(encrypting("a", "AES")).await;
    assert_eq!(answer.json()["errorCode"], "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED");
}

/// A key that is not in the set yet is looked for once more, after the interval.
#[tokio::test]
async fn a_new_key_is_found_at_its_address() {
    let asked_before = std::sync::atomic::AtomicUsize::new(0);
    let desk = App::start(move |_asked| {
        let first = asked_before.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        json(200, if first { r#"{"keys":[]}"# } else { SET })
    })
    .await;
    let url = format!("http://127.0.0.1:{}/set", desk.port);
    let interval = "  - {name: minRefreshInterval, value: 1s}\n";
    let pillion = Setup::new().resource("vault.yaml", &jwks(&url, interval)).start().await;
    until("the new key", || async {
        let answer = pillion.send(encrypting("a", "AES").body("x")).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(desk.asked().len(), 2, "asked once at the start and once after the interval");
}
