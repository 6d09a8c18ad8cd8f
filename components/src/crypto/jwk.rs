//! JSON Web Keys and sets of them (RFC 7517), as far as they wrap keys: `oct` and `RSA`.

use super::Zeroizing;
use super::keys::{Key, Limits, Material, Numbers, decode, invalid};
use crate::error::Result;
use base64::alphabet::URL_SAFE;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most keys in a set; each may take some KB.
const SET_KEYS_MAX: usize = 256;

/// Keys by their `kid`.
pub(super) type Set = BTreeMap<String, Arc<Key>>;

/// The members we read; others are ignored.
#[derive(Deserialize)]
struct Members {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Vec<String>,
    alg: Option<String>,
    k: Option<Zeroizing<String>>,
    n: Option<String>,
    e: Option<String>,
    d: Option<Zeroizing<String>>,
    p: Option<Zeroizing<String>>,
    q: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Members>,
}

/// One key.
pub(super) fn parse_key(bytes: &[u8]) -> Result<Key> {
    members::<Members>(bytes)?.into_key()
}

/// A set, or one key alone as a set of one. Keys without a `kid` cannot be asked for.
pub(super) fn parse_set(bytes: &[u8]) -> Result<Set> {
    let keys = match members::<Keys>(bytes) {
        Ok(set) => set.keys,
        Err(error) => vec![members::<Members>(bytes).map_err(|_| error)?],
    };
    if keys.len() > SET_KEYS_MAX {
        return Err(invalid(format!("{} keys, at most {SET_KEYS_MAX}", keys.len())));
    }
    let mut set = Set::new();
    for (index, mut key) in keys.into_iter().enumerate() {
        let Some(kid) = key.kid.take() else { continue };
        let key = key.into_key().map_err(|error| error.context(format_args!("key {index}")))?;
        set.insert(kid, Arc::new(key));
    }
    Ok(set)
}

/// serde's own message would quote what it found.
fn members<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        invalid(format!("line {line}, column {column}: not a JSON Web Key or a set of them"))
    })
}

impl Members {
    fn into_key(self) -> Result<Key> {
        let material = match self.kty.as_str() {
            "oct" => self.symmetric()?,
            "RSA" => self.rsa()?,
            "EC" | "OKP" => Material::Other,
            _ => return Err(invalid("invalid key type")),
        };
        let limits = Limits {
            usage: self.usage.filter(|usage| !usage.is_empty()),
            operations: self.key_ops,
            algorithm: self.alg.filter(|name| !name.is_empty()),
        };
        Ok(Key { material, limits })
    }

    fn symmetric(&self) -> Result<Material> {
        let key = self.k.as_ref().and_then(|k| decode(&URL_SAFE, k.as_bytes()));
        match key {
            Some(key) if !key.is_empty() => Ok(Material::Symmetric(Zeroizing::new(key))),
            _ => Err(invalid("the member k of an oct key is missing or no base64url")),
        }
    }

    fn rsa(&self) -> Result<Material> {
        let number = |text: &str| decode(&URL_SAFE, text.as_bytes()).map(Zeroizing::new);
        let material = || {
            let (n, e) = (number(self.n.as_ref()?)?, number(self.e.as_ref()?)?);
            let Some(d) = &self.d else {
                return Numbers { n: &n, e: &e, private: None }.material();
            };
            let primes = [&self.p, &self.q].into_iter().flatten();
            let primes: Vec<_> = primes.map(|prime| number(prime)).collect::<Option<_>>()?;
            let primes: Vec<&[u8]> = primes.iter().map(|prime| prime.as_slice()).collect();
            Numbers { n: &n, e: &e, private: Some((&number(d)?, &primes)) }.material()
        };
        material().ok_or_else(|| {
            invalid("the numbers of an RSA key of 2048 to 4096 bits are missing or wrong")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Algorithm;
    use crate::crypto::keys::Operation;

    const KEY: &str = r#""kty":"oct","k":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8""#;

    fn may(limits: &str, operation: Operation) -> bool {
        let key = parse_key(format!("{{{KEY}{limits}}}").as_bytes()).unwrap();
        key.check(operation, Algorithm::A256Kw).is_ok()
    }

    #[test]
    fn a_key_says_what_it_is_for() {
        use Operation::{UnwrapKey, WrapKey};
        for (limits, wrap, unwrap) in [
            ("", true, true),
            (r#","use":"enc""#, true, true),
            (r#","use":"sig""#, false, false),
            (r#","use":"other""#, false, false),
            (r#","key_ops":["wrapKey"]"#, true, false),
            (r#","key_ops":["unwrapKey","sign"]"#, false, true),
            (r#","key_ops":["encrypt"]"#, false, false),
            (r#","alg":"A256KW""#, true, true),
            (r#","alg":"A128KW""#, false, false),
        ] {
            assert_eq!((may(limits, WrapKey), may(limits, UnwrapKey)), (wrap, unwrap), "{limits}");
        }
    }

    #[test]
    fn a_set_is_read_by_kid_and_one_key_is_a_set_too() {
        let set = format!(
            r#"{{"keys":[{{{KEY},"kid":"a"}},{{{KEY}}},{{"kty":"EC","kid":"curve","crv":"P-256"}}]}}"#
        );
        let names: Vec<_> = parse_set(set.as_bytes()).unwrap().into_keys().collect();
        assert_eq!(names, ["a", "curve"]);
        let one = format!(r#"{{{KEY},"kid":"a"}}"#);
        assert_eq!(parse_set(one.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_without_the_key() {
        for text in [
            r#"{"kty":"oct"}"#,
            r#"{"kty":"oct","k":"hunter2!"}"#,
            r#"{"kty":"RSA","n":"hunter2","e":"AQAB"}"#,
            r#"{"kty":"RSA","n":"hunter2","e":"AQAB","d":"hunter2"}"#,
            r#"{"kty":"hunter2"}"#,
            r#"{"kty":{"hunter2":1}}"#,
            "[]",
            "",
            "{",
        ] {
            let error = parse_key(text.as_bytes()).unwrap_err();
            assert!(!error.message().contains("hunter2"), "{error}");
        }
    }
}
