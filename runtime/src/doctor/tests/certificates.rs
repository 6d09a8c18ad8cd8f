//! Dates of certificates, and a reader that damaged ones cannot hurt.

use super::super::certificates::{dates, time, validity};
use super::super::{Findings, Level};
use base64::Engine as _;
use pillion_components::env;

/// Self-signed by openssl, from 2026-11-24 21:03:59 to 2036-11-21 21:03:59.
const CERTIFICATE: &str = "MIIBnjCCAUWgAwIBAgIUTyDeMmbw7s4w6MVFImCD4R3H5H8wCgYIKoZIzj0EAwIwJTEQMA4GA1UECgwH\
    UGlsbGlvbjERMA8GA1UEAwwIc2Vuc29yLTcwHhcNMjYxMTI0MjEwMzU5WhcNMzYxMTIxMjEwMzU5WjAl\
    MRAwDgYDVQQKDAdQaWxsaW9uMREwDwYDVQQDDAhzZW5zb3ItNzBZMBMGByqGSM49AgEGCCqGSM49AwEH\
    A0IABFVKbVLimtJd/By1fT/GW7pGGFhZ/GG6a7XbrmXlhy6fbgwe1KOw3iX1ZKTNdu33l2ldA0EsN3yK\
    IESBZ5WHQ9yjUzBRMB0GA1UdDgQWBBTCNvqN2malUl5cerH9WamyDV0LZzAfBgNVHSMEGDAWgBTCNvqN\
    2malUl5cerH9WamyDV0LZzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIAOlWKR4RiKf\
    gFeJbw4GxTwFcUPyNOFAZbt2fEKQ4uclAiBsdbv7se8Zy+cbJp/d5WOXVaadwHnvF+Gf5eR9LeQAhg==";
const FROM: i64 = 1_795_554_239;
const UNTIL: i64 = 2_110_914_239;

fn judged(now_s: i64, pem: &str, is_authority: bool) -> Level {
    let mut out = Findings::default();
    dates(now_s, "x", pem.as_bytes(), is_authority, &mut out);
    assert_eq!(out.0.len(), 1, "{out:?}");
    out.0[0].level
}

#[test]
fn dates_of_certificates_are_judged() {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{CERTIFICATE}\n-----END CERTIFICATE-----\n");
    let day = 86_400;
    for (now, is_authority, level) in [
        (UNTIL - 400 * day, false, Level::Ok),
        (UNTIL - 29 * day, false, Level::Warn),
        (UNTIL + 1, false, Level::Fail),
        (UNTIL + 1, true, Level::Fail),
        // A clock that is not set can judge nothing.
        (1_000_000, false, Level::Skip),
    ] {
        assert_eq!(judged(now, &pem, is_authority), level, "{now}");
    }
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x"] {
        assert_eq!(judged(UNTIL, text, false), Level::Fail, "{text}");
    }
}

#[test]
fn damaged_certificates_are_survived() {
    let der = base64::engine::general_purpose::STANDARD.decode(CERTIFICATE).expect("base64");
    assert_eq!(validity(&der), Some((FROM, UNTIL)));
    let seed = env::random_u64();
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    };
    for length in 0..der.len() {
        let _ = validity(&der[..length]);
    }
    for _ in 0..200_000 {
        let mut bent = der.clone();
        // Most of what is read lies in front.
        for _ in 0..=random(4) {
            let reach = if random(2) == 0 { 90 } else { der.len() };
            let at = random(reach);
            bent[at] = u8::try_from(random(256)).expect("a byte");
        }
        let (one, other) = (random(der.len() + 1), random(der.len() + 1));
        bent.truncate(one.max(other));
        let _ = validity(&bent);
    }
}

#[test]
fn times_of_certificates() {
    for (tag, text, seconds) in [
        (0x17, "700101000000Z", Some(0)),
        (0x17, "240229120000Z", Some(1_709_208_000)),
        (0x17, "491231235959Z", Some(2_524_607_999)),
        (0x17, "500101000000Z", Some(-631_152_000)),
        (0x18, "20000301000000Z", Some(951_868_800)),
        (0x18, "99991231235959Z", Some(253_402_300_799)),
        (0x17, "701301000000Z", None),
        (0x17, "700100000000Z", None),
        (0x17, "70010100000Z", None),
        (0x17, "7001010000-1Z", None),
        (0x17, "700101000000", None),
        (0x16, "700101000000Z", None),
        (0x18, "é0000301000000Z", None),
    ] {
        assert_eq!(time(tag, text.as_bytes()), seconds, "{text}");
    }
}
