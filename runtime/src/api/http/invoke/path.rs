//! From the request's path to the id of an app and the path that it is asked for.

use bytes::Bytes;
use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use std::borrow::Cow;
use std::fmt;

/// Splits what follows `invoke/` into id and method path; `None` when there is no `method` in it.
/// An id that is a URL may be escaped or stand as it is, even with a slash lost on the way.
pub(super) fn split(rest: &str) -> Option<(Cow<'_, str>, &str)> {
    let rest = rest.trim_start_matches('/');
    if rest.starts_with("http:/") || rest.starts_with("https:/") {
        let (url, method) = rest
            .split_once("/method/")
            .or_else(|| rest.strip_suffix("/method").map(|url| (url, "")))?;
        return Some((with_two_slashes(url.into()), method));
    }
    let (id, tail) = rest.split_once('/')?;
    let method = tail.trim_start_matches('/').strip_prefix("method")?;
    if !method.is_empty() && !method.starts_with('/') {
        return None;
    }
    let id = match decode(id) {
        Cow::Borrowed(_) => Cow::Borrowed(id),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).ok()?),
    };
    (!id.is_empty()).then(|| (with_two_slashes(id), method))
}

/// Repairs `http:/host`.
fn with_two_slashes(url: Cow<'_, str>) -> Cow<'_, str> {
    for scheme in ["http:/", "https:/"] {
        if let Some(rest) = url.strip_prefix(scheme) {
            if rest.strip_prefix('/').is_some_and(|host| !host.starts_with('/')) {
                return url;
            }
            return Cow::Owned([scheme, "/", rest.trim_start_matches('/')].concat());
        }
    }
    url
}

/// Why a method path cannot be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PathError {
    /// The decoded path holds what would change its meaning.
    Forbidden(String),
    /// It is no path of a URI, or too long for one.
    Invalid,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rpc error: code = InvalidArgument desc = invalid method: ")?;
        match self {
            PathError::Forbidden(path) => {
                write!(f, "method contains forbidden character: {path:?}")
            }
            PathError::Invalid => f.write_str("method is not a path"),
        }
    }
}

/// The request target for the app: the method path decoded, cleaned and escaped again, and the
/// query as it came.
pub(super) fn target(method: &str, query: Option<&str>) -> Result<Uri, PathError> {
    let path = cleaned(method)?;
    let query_len = query.map_or(0, |query| query.len() + 1);
    let mut target = String::with_capacity(1 + path.len() + query_len);
    target.push('/');
    target.push_str(&path);
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let target = PathAndQuery::from_maybe_shared(Bytes::from(target));
    target.map(Uri::from).map_err(|_| PathError::Invalid)
}

/// A method path without `.`, `..`, double slashes and slashes at its ends.
fn cleaned(method: &str) -> Result<Cow<'_, str>, PathError> {
    let method = method.trim_start_matches('/');
    let method = method.strip_suffix('/').unwrap_or(method);
    if is_clean(method) {
        return Ok(Cow::Borrowed(method));
    }
    let decoded = decode(method);
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let path = segments.join(&b'/');
    if path.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'#' | b'?')) {
        return Err(PathError::Forbidden(String::from_utf8_lossy(&path).into_owned()));
    }
    Ok(Cow::Owned(encode(&path)))
}

/// Whether cleaning would leave the path as it is; true for almost all that apps call.
fn is_clean(path: &str) -> bool {
    let mut segment_begins = true;
    for byte in path.bytes() {
        if !is_plain(byte) || (segment_begins && matches!(byte, b'/' | b'.')) {
            return false;
        }
        segment_begins = byte == b'/';
    }
    true
}

/// Bytes that stand for themselves in a path.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*".contains(&byte)
}

/// Decodes `%XX`; what is no escape stays as it is. A `+` is a plus: this is no query.
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |digit: Option<&u8>| digit.and_then(|digit| char::from(*digit).to_digit(16));
        match (first, hex(tail.first()), hex(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(first);
                rest = tail;
            }
        }
    }
    Cow::Owned(decoded)
}

fn encode(path: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    let mut encoded = String::with_capacity(path.len());
    for &byte in path {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_and_a_method_are_found() {
        for (rest, id, method) in [
            ("app1/method/echo/x", "app1", "/echo/x"),
            ("app1/method/", "app1", "/"),
            ("app1/method", "app1", ""),
            ("app1.default/method/a/method/b", "app1.default", "/a/method/b"),
            ("/app1//method//a", "app1", "//a"),
            ("http://h:1/method/echo", "http://h:1", "echo"),
            ("http:/h:1/base/method/echo", "http://h:1/base", "echo"),
            ("https://h/method", "https://h", ""),
            ("http%3A%2F%2Fh%3A1/method/e", "http://h:1", "/e"),
            ("https%3A%2Fh%2Fb/method/e", "https://h/b", "/e"),
            ("a%20b/method/e", "a b", "/e"),
        ] {
            let found = split(rest);
            assert_eq!(found, Some((id.into(), method)), "{rest}");
        }
        for rest in ["app1", "app1/", "app1/x/y", "/method/x", "app1/methods/x", "", "http://h/x"] {
            assert_eq!(split(rest), None, "{rest}");
        }
    }

    #[test]
    fn methods_are_decoded_cleaned_and_escaped() {
        for (method, query, expected) in [
            ("/echo/x", Some("q=1&z=%20a"), "/echo/x?q=1&z=%20a"),
            ("", None, "/"),
            ("/", None, "/"),
            ("/echo/../echo/./y", None, "/echo/y"),
            ("/../../y", None, "/y"),
            ("/echo//y", None, "/echo/y"),
            ("/echo/", None, "/echo"),
            ("/a%20b%2Fc", None, "/a%20b/c"),
            ("/a%2F..%2Fb", None, "/b"),
            ("/%C3%A9", None, "/%C3%A9"),
            ("/100%25", None, "/100%25"),
            ("/a+b;c=d,e:f@g", None, "/a+b;c=d,e:f@g"),
            ("/.well-known/x", None, "/.well-known/x"),
            ("/a.b/c..d", None, "/a.b/c..d"),
            ("/a[1]", None, "/a%5B1%5D"),
        ] {
            let uri = target(method, query).unwrap();
            assert_eq!(uri.to_string(), expected, "{method}");
        }
    }

    #[test]
    fn what_would_change_the_meaning_is_refused() {
        for (method, shown) in
            [("echo/a%20b%2Fc%3Fd", "echo/a b/c?d"), ("echo%23x", "echo#x"), ("a%00", "a\0")]
        {
            assert_eq!(target(method, None), Err(PathError::Forbidden(shown.into())), "{method}");
        }
    }
}
