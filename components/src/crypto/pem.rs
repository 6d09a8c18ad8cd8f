//! RSA keys as PEM: PKCS #8, PKCS #1 and the public form of X.509, read by what little of DER they
//! need.

use super::Zeroizing;
use super::keys::{Key, Material, Numbers, decode, invalid};
use crate::error::Result;
use base64::alphabet::STANDARD;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// 1.2.840.113549.1.1.1, rsaEncryption.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// The first key of a text.
pub(super) fn parse(bytes: &[u8]) -> Result<Key> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("a PEM file is text"))?;
    let (label, der) = first(text).ok_or_else(|| {
        invalid("a PEM file has base64 between -----BEGIN …----- and -----END …-----")
    })?;
    let material = match label {
        "PRIVATE KEY" => pkcs8_private(&der),
        "RSA PRIVATE KEY" => pkcs1_private(&der),
        "PUBLIC KEY" => x509_public(&der),
        "RSA PUBLIC KEY" => pkcs1_public(&der),
        _ => None,
    };
    let wrong = || invalid(format!("the {label} is no RSA key of 2048 to 4096 bits"));
    material.map(Key::from).ok_or_else(wrong)
}

fn first(text: &str) -> Option<(&str, Zeroizing<Vec<u8>>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let bytes = body.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let encoded = Zeroizing::new(bytes.collect::<Vec<u8>>());
    Some((label, Zeroizing::new(decode(&STANDARD, &encoded)?)))
}

fn pkcs8_private(der: &[u8]) -> Option<Material> {
    let mut key = Der(Der(der).next(SEQUENCE)?);
    key.next(INTEGER)?;
    key.is_rsa()?;
    pkcs1_private(key.next(OCTET_STRING)?)
}

fn pkcs1_private(der: &[u8]) -> Option<Material> {
    let mut key = Der(Der(der).next(SEQUENCE)?);
    // Version 1 has more than two primes.
    if key.next(INTEGER)? != [0] {
        return None;
    }
    let (n, e, d) = (key.number()?, key.number()?, key.number()?);
    let primes = [key.number()?, key.number()?];
    Numbers { n, e, private: Some((d, &primes)) }.material()
}

fn x509_public(der: &[u8]) -> Option<Material> {
    let mut key = Der(Der(der).next(SEQUENCE)?);
    key.is_rsa()?;
    // Ahead of the bits stands how many of the last byte are none.
    let (0, bits) = key.next(BIT_STRING)?.split_first()? else { return None };
    pkcs1_public(bits)
}

fn pkcs1_public(der: &[u8]) -> Option<Material> {
    let mut key = Der(Der(der).next(SEQUENCE)?);
    Numbers { n: key.number()?, e: key.number()?, private: None }.material()
}

/// Values that stand one behind the other, each as tag, length, bytes.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value, if it is of this kind.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*found == tag).then_some(value)
    }

    /// A positive number, without leading zeros.
    fn number(&mut self) -> Option<&'a [u8]> {
        let value = self.next(INTEGER)?;
        let zeros = value.iter().take_while(|byte| **byte == 0).count();
        let is_negative = value.first().is_none_or(|first| *first >= 0x80);
        value.get(zeros..).filter(|number| !number.is_empty() && !is_negative)
    }

    /// Whether the next value names RSA.
    fn is_rsa(&mut self) -> Option<()> {
        let name = Der(self.next(SEQUENCE)?).next(OBJECT_IDENTIFIER)?;
        (name == RSA).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a file holds, it is a key or an error.
    #[test]
    fn a_damaged_file_is_an_error() {
        let whole = include_str!("../../tests/keys/rsa.pem");
        let (_, der) = first(whole).unwrap();
        assert!(pkcs8_private(&der).is_some());
        for end in 0..der.len() {
            assert!(pkcs8_private(&der[..end]).is_none(), "cut at {end}");
        }
        // Of the structure ahead of the numbers every byte counts, but for the version's.
        for place in (0..38).filter(|place| *place != 6) {
            let mut changed = der.to_vec();
            changed[place] ^= 0x41;
            let parsed = pkcs8_private(&changed);
            assert!(parsed.is_none() || (20..24).contains(&place), "byte {place}");
        }
        for text in ["", "-----BEGIN PRIVATE KEY-----", "-----BEGIN X-----\nAA\n-----END X-----"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
