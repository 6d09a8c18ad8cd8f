//! Certificates: every PEM that the configuration names, its dates, and whether its key fits.

use super::Findings;
use super::clock::{date, is_plausible};
use super::scene::Scene;
use crate::api::mqtt::tls::{acceptor, element};
use crate::resources::Setting;
use pillion_components::Kind;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::path::Path;
use std::sync::Arc;

/// So long before its end a certificate should be renewed.
const RENEW_S: i64 = 30 * DAY_S;
const DAY_S: i64 = 86_400;

/// Largest PEM file: a bundle of all authorities of the web is 250 KB.
const PEM_BYTES_MAX: usize = 4 << 20;

/// Settings of components that hold certificates; whether these are authorities, of which one that
/// holds is enough.
const SETTINGS: [(&str, bool); 2] = [("caCert", true), ("clientCert", false)];

pub(super) fn check(scene: &Arc<Scene>, out: &mut Findings) {
    if let Some(tls) = scene.plan.gateway.mqtt.as_ref().and_then(|mqtt| mqtt.tls.as_ref()) {
        if let Err(error) = acceptor(tls)
            && error.kind() != Kind::Denied
        {
            let advice = "put the certificate's own key and chain there, readable for the service";
            out.fail(&"MQTT over TLS", &error, &advice);
        }
        file(scene, "MQTT over TLS", &tls.certificate, false, out);
        if let Some(path) = &tls.client_ca {
            file(scene, "MQTT clients", path, true, out);
        }
    }
    for component in &scene.plan.components {
        for (name, setting) in &component.settings {
            let known = SETTINGS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            let (Some((known, is_authority)), Setting::Text(text)) = (known, setting) else {
                continue;
            };
            let what = format!("{} {known}", component.name);
            if text.contains("-----BEGIN") {
                dates(scene.now_s, &what, text.as_bytes(), *is_authority, out);
            } else {
                file(scene, &what, Path::new(text), *is_authority, out);
            }
        }
    }
    if out.0.is_empty() {
        out.skip(&"certificates", &"the configuration names none");
    }
}

fn file(scene: &Scene, what: &str, path: &Path, is_authority: bool, out: &mut Findings) {
    let what = format!("{what}: {}", path.display());
    match std::fs::read(path) {
        Ok(bytes) if bytes.len() <= PEM_BYTES_MAX => {
            dates(scene.now_s, &what, &bytes, is_authority, out);
        }
        Ok(_) => out.fail(&what, &"is no PEM file: too large", &"name a PEM file"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            out.skip(&what, &"this user may not read it; run as root");
        }
        Err(error) => out.fail(&what, &error, &"correct the path"),
    }
}

/// Judges the certificates of a PEM text by the one that ends first; of authorities by the one that
/// ends last.
pub(super) fn dates(now_s: i64, what: &str, pem: &[u8], is_authority: bool, out: &mut Findings) {
    let what = &what;
    let mut span: Option<(i64, i64)> = None;
    for one in CertificateDer::pem_slice_iter(pem) {
        let Some((from, until)) = one.ok().as_deref().and_then(validity) else {
            span = None;
            break;
        };
        span = Some(match span {
            None => (from, until),
            Some((begin, end)) if is_authority => (begin.min(from), end.max(until)),
            Some((begin, end)) => (begin.max(from), end.min(until)),
        });
    }
    let Some((begin, end)) = span else {
        let advice = "write certificates in PEM, as openssl x509 does";
        return out.fail(what, &"holds no certificate that can be read", &advice);
    };
    let until = date(end);
    let days = (end - now_s) / DAY_S;
    if !is_plausible(now_s) {
        let text =
            format_args!("until {until}; whether it holds is unknown until the clock is set");
        out.skip(what, &text);
    } else if end < now_s {
        out.fail(what, &format_args!("has ended on {until}"), &"renew it");
    } else if begin > now_s {
        let begin = date(begin);
        let advice = "is the clock right? else wait, or make a new one";
        out.fail(what, &format_args!("does not hold before {begin}"), &advice);
    } else if end - now_s < RENEW_S {
        out.warn(what, &format_args!("until {until}, {days} days"), &"renew it");
    } else {
        out.ok(what, &format_args!("until {until}, {days} days"));
    }
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// From when to when a certificate holds, in seconds since 1970.
///
/// ```text
/// SEQUENCE { SEQUENCE { [0] version?, serial, algorithm, issuer, SEQUENCE { time, time }, … }, … }
/// ```
pub(super) fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    let (tag, _, after) = element(rest)?;
    if tag == VERSION {
        rest = after;
    }
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (tag, times, _) = element(rest)?;
    let (from_tag, from, rest) = element(times)?;
    let (until_tag, until, _) = element(rest)?;
    let both = (time(from_tag, from)?, time(until_tag, until)?);
    (tag == SEQUENCE).then_some(both)
}

/// `YYMMDDhhmmssZ`, years from 1950 to 2049, or `YYYYMMDDhhmmssZ`.
pub(super) fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = text.split_at(2);
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = text.split_at(4);
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    (is_digits && is_date)
        .then(|| days(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. A year that begins in March has its leap
/// day at its end, and five months of it 153 days.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}
