//! What is refused, with which status, code and words.

use crate::{decrypt, encrypt, encrypting, request, setup, vault};
use pillion_tests::random::Random;
use pillion_tests::{Answer, Pillion, Request, Setup};

fn assert_error(answer: &Answer, status: u16, code: &str, message: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let error = answer.json();
    let told = (error["errorCode"].as_str(), error["message"].as_str());
    assert_eq!(told, (Some(code), Some(message)));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

async fn refused(pillion: &Pillion, request: Request, message: &str) {
    let answer = pillion.send(request.body("x")).await;
    let message = format!("failed to perform operation: {message}");
    assert_error(&answer, 500, "ERR_CRYPTO", &message);
}

#[tokio::test]
async fn what_is_missing_is_told() {
    let none = Setup::new().start().await;
    let answer = none.send(encrypting("sym.b64", "AES")).await;
    let code = "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED";
    assert_error(&answer, 500, code, "crypto providers not configured");
    let answer = none.send(request("decrypt", &[])).await;
    assert_error(&answer, 500, code, "crypto providers not configured");

    // A provider for others only is none for this app.
    let others = setup();
    let text = vault("scopes: [app2]").replace("{dir}", &others.dir().display().to_string());
    let others = others.resource("vault.yaml", &text).start().await;
    let answer = others.send(encrypting("sym.b64", "AES")).await;
    assert_error(&answer, 500, code, "crypto providers not configured");

    let pillion = setup().start().await;
    let mut other = encrypting("sym.b64", "AES");
    other.path = other.path.replace("vault", "z%2Fz");
    let code = "ERR_CRYPTO_PROVIDER_NOT_FOUND";
    assert_error(&pillion.send(other).await, 400, code, "crypto provider z/z not found");
    for (headers, missing) in [
        (&[("dapr-key-wrap-algorithm", "AES")][..], "dapr-key-name"),
        (&[("dapr-key-name", "sym.b64")], "dapr-key-wrap-algorithm"),
        (&[("dapr-key-name", ""), ("dapr-key-wrap-algorithm", "AES")], "dapr-key-name"),
    ] {
        let answer = pillion.send(request("encrypt", headers)).await;
        let message = format!("invalid request: missing header '{missing}'");
        assert_error(&answer, 400, "ERR_BAD_REQUEST", &message);
    }
    for path in ["subtlecrypto/vault/getkey", "crypto/vault/other", "crypto/vault"] {
        let mut other = request("encrypt", &[]);
        other.path = format!("/v1.0-alpha1/{path}");
        assert_eq!(pillion.send(other).await.json()["errorCode"], "ERR_DIRECT_INVOKE", "{path}");
    }
}

#[tokio::test]
async fn keys_and_algorithms_that_do_not_fit_are_refused() {
    let pillion = setup().start().await;
    let wrap = "failed to wrap the file key";
    let keys = pillion.dir().join("keys").display().to_string();
    for (key, algorithm, message) in [
        ("sym.b64", "RSA", "failed to encrypt data: key type mismatch"),
        ("rsa.pem", "AES", "failed to encrypt data: key type mismatch"),
        ("sym16", "A256KW", "failed to encrypt data: key type mismatch"),
        ("sym16", "A128CBC-NOPAD", "failed to encrypt data: invalid nonce"),
        ("sym.b64", "a256cbc-nopad", "failed to encrypt data: invalid nonce"),
        ("sym.b64", "A192CBC-NOPAD", "failed to encrypt data: key type mismatch"),
    ] {
        let answer = pillion.send(encrypting(key, algorithm).body("x")).await;
        let told = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!((answer.status, &answer.json()["errorCode"]), (500, &"ERR_CRYPTO".into()));
        assert!(told.contains(wrap) && told.ends_with(message), "{key} {algorithm}: {told}");
    }
    let kek = format!("{wrap}: failed to retrieve the key encryption key");
    for name in ["../outside", "x/../../outside", ".."] {
        let message = format!("{kek}: invalid key path: cannot contain '..'");
        refused(&pillion, encrypting(name, "AES"), &message).await;
    }
    // An absolute path lies in the folder as well.
    let absolute = pillion.dir().join("outside").display().to_string();
    let message = format!(
        "{kek}: failed to load key '{absolute}': open {keys}{absolute}: no such file or directory"
    );
    refused(&pillion, encrypting(&absolute, "AES"), &message).await;
    let message = "option Algorithm is not valid: algorithm RSA-OAEP is not supported";
    refused(&pillion, encrypting("rsa.pem", "rsa-oaep"), message).await;
    let cipher = encrypting("sym.b64", "AES").header("dapr-data-encryption-cipher", "rot13");
    let message = "option Cipher is not valid: cipher ROT13 is not supported";
    refused(&pillion, cipher, message).await;
    let log = pillion.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_message_that_is_not_whole_is_refused() {
    let pillion = setup().start().await;
    let good = encrypt(&pillion, "sym.b64", "AES", b"attack at dawn").await;
    let lines: Vec<&[u8]> = good.splitn(4, |byte| *byte == b'\n').collect();
    let message = |lines: &[&[u8]]| lines.join(&b'\n');
    let manifest = |from: &str, to: &str| {
        let manifest = String::from_utf8_lossy(lines[1]).replace(from, to);
        message(&[lines[0], manifest.as_bytes(), lines[2], lines[3]])
    };
    let mut code = lines[2].to_vec();
    code[3] = if code[3] == b'A' { b'B' } else { b'A' };
    let header = "invalid header: ";
    let signature = "failed to validate the document's signature".to_owned();
    for (encrypted, told) in [
        (b"garbage".to_vec(), format!("{header}scheme name not found")),
        (Vec::new(), format!("{header}scheme name not found")),
        (message(&lines[..2]), format!("{header}manifest not found")),
        (message(&lines[..3]), format!("{header}message authentication code not found")),
        (manifest("{", "["), format!("{header}invalid manifest")),
        (manifest("\"kw\":1", "\"kw\":6"), format!("{header}invalid manifest")),
        // From here on it is well formed, and not what was signed.
        (manifest("\"cph\":1", "\"cph\":2"), signature.clone()),
        (manifest("\"kw\":1", "\"kw\":5"), signature.clone()),
        (manifest("{", "{ "), signature.clone()),
        (manifest("sym.b64", "other"), signature.clone()),
        // Whether a key is there is not told.
        (manifest("sym.b64", "nowhere"), signature.clone()),
        (manifest("sym.b64", "../outside"), signature.clone()),
        (message(&[lines[0], lines[1], &code, lines[3]]), signature),
        (
            message(&[lines[0], lines[1], b"!", lines[3]]),
            "failed to decode header's signature: illegal base64 data at input byte 0".to_owned(),
        ),
        (
            manifest("\"k\":\"sym.b64\",", ""),
            "document's manifest does not contain a key name, and no key name was provided".into(),
        ),
    ] {
        let answer = decrypt(&pillion, &encrypted).await;
        let told = format!("failed to perform operation: {told}");
        assert_error(&answer, 500, "ERR_CRYPTO", &told);
    }
    assert_eq!(decrypt(&pillion, &good).await.text(), "attack at dawn");
}

/// Nothing but the message itself is taken for it, whatever is done to its header.
#[tokio::test]
async fn a_changed_header_is_never_accepted() {
    let pillion = setup().start().await;
    let mut random = Random::new();
    let good = encrypt(&pillion, "sym.b64", "AES", b"").await;
    let mut below = |bound: usize| usize::try_from(random.below(bound as u64)).expect("an index");
    for _ in 0..200 {
        let mut bad = good.clone();
        for _ in 0..=below(3) {
            let place = below(bad.len());
            match below(4) {
                0 => bad[place] ^= 1 << below(8),
                1 if bad.len() > 1 => drop(bad.remove(place)),
                2 => bad.insert(place, b"\n\"{}[]:,0=\0\xff"[below(12)]),
                _ => bad.truncate(place.max(1)),
            }
        }
        if bad == good {
            continue;
        }
        let request = request("decrypt", &[]).body(bad.clone());
        // A good header with something behind it breaks off instead.
        if let Ok(answer) = request.send(pillion.port).await {
            assert_eq!(answer.status, 500, "{}", String::from_utf8_lossy(&bad));
        }
    }
    assert_eq!(decrypt(&pillion, &good).await.status, 200, "{}", pillion.log());
}
