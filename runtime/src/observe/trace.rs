//! W3C trace context: read from a request, carried through, written to the next hop.
//!
//! <https://www.w3.org/TR/trace-context/>. A caller without one gets a new trace, so that every
//! answer and every call to an app carries a `traceparent`.

use pillion_components::env;
use std::sync::Arc;

/// Longest `tracestate` carried on, in bytes; the standard asks for at least 512.
pub const TRACESTATE_BYTES_MAX: usize = 4096;

/// The trace that one request belongs to.
#[derive(Debug, Clone)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    /// The caller brought it; without one the trace is of our own making.
    incoming: bool,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// Continues the caller's trace with a span of our own, or starts one that is not sampled.
    pub fn from_headers(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        match traceparent.and_then(parse_traceparent) {
            Some((trace_id, _parent, flags)) => Self {
                trace_id,
                span_id: random_nonzero(),
                flags,
                incoming: true,
                state: tracestate.filter(|text| text.len() <= TRACESTATE_BYTES_MAX).map(Arc::from),
            },
            None => Self::new(),
        }
    }

    /// A new trace that is not sampled.
    pub fn new() -> Self {
        let trace_id = (u128::from(random_nonzero()) << 64) | u128::from(random_nonzero());
        Self { trace_id, span_id: random_nonzero(), flags: 0, incoming: false, state: None }
    }

    /// The same trace with a new span, for a hop of our own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: random_nonzero(), ..self.clone() }
    }

    /// Whether the caller brought the trace.
    pub const fn is_incoming(&self) -> bool {
        self.incoming
    }

    /// The `tracestate` to carry on.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The `traceparent` header's text, 55 bytes on the stack. By hand, since every answer carries
    /// one and the formatting machinery costs five times as much.
    pub fn traceparent(&self) -> heapless::String<55> {
        let mut text = heapless::String::new();
        let mut push = |part: &str| {
            let pushed = text.push_str(part);
            debug_assert!(pushed.is_ok(), "55 bytes hold a traceparent");
        };
        push("00-");
        push(hex(&mut [0; 32], &self.trace_id.to_be_bytes()));
        push("-");
        push(hex(&mut [0; 16], &self.span_id.to_be_bytes()));
        push("-");
        push(hex(&mut [0; 2], &[self.flags]));
        text
    }
}

/// The bytes as lower-case digits, two each; `digits` has twice their length.
fn hex<'a>(digits: &'a mut [u8], bytes: &[u8]) -> &'a str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }
    // All of them are ASCII.
    std::str::from_utf8(digits).unwrap_or_default()
}

impl Default for TraceContext {
    fn default() -> Self {
        Self::new()
    }
}

fn random_nonzero() -> u64 {
    env::random_u64() | 1
}

/// Trace id, parent id and flags of a valid `traceparent`, any version but `ff`.
fn parse_traceparent(text: &str) -> Option<(u128, u64, u8)> {
    let text = text.trim();
    let mut parts = text.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower_hex = |part: &str, digits: usize| {
        part.len() == digits
            && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let well_formed = lower_hex(version, 2)
        && lower_hex(trace, 32)
        && lower_hex(parent, 16)
        && lower_hex(flags, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none());
    if !well_formed {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0)?;
    Some((trace, parent, u8::from_str_radix(flags, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_callers_trace_goes_on_with_a_span_of_ours() {
        let context = TraceContext::from_headers(Some(PARENT), Some("k=v"));
        let ours = context.traceparent();
        assert!(context.is_incoming());
        assert_eq!(ours.get(..36), PARENT.get(..36));
        assert_ne!(ours.get(36..52), PARENT.get(36..52));
        assert!(ours.ends_with("-01"));
        assert_eq!(context.state(), Some("k=v"));
    }

    #[test]
    fn what_is_no_traceparent_starts_a_trace() {
        for text in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert!(!TraceContext::from_headers(Some(text), None).is_incoming(), "{text}");
        }
    }
}
