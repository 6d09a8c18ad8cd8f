//! What is asked of Pillion, request by request.

use crate::Result;
use crate::load::{self, Shape, Target, Until, request};
use std::net::SocketAddr;

/// Keys that are saved over and over.
pub(crate) const HOT_KEYS: usize = 100;
/// Length of a saved value and a published payload, in bytes.
pub(crate) const VALUE_BYTES: usize = 256;

/// A row of the tables.
pub(crate) struct Row {
    /// As the tables show it.
    pub(crate) name: &'static str,
    /// As `instructions.toml` calls it.
    pub(crate) key: &'static str,
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) status: u16,
    /// Most CPU time, as a ratio to the bare server's (to the bare proxy's for `invoke`).
    pub(crate) cpu_ratio_max: Option<f64>,
    /// Its answer waits for the disk.
    pub(crate) waits_for_disk: bool,
}

impl Row {
    pub(crate) fn target(&self, address: SocketAddr) -> Target {
        Target { address, requests: self.requests.clone(), status: self.status }
    }
}

/// A text that does not compress and is valid in JSON.
pub(crate) fn value(seed: usize) -> String {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap_or(0))
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

fn save(key: &str, seed: usize, consistency: &str) -> Vec<u8> {
    let value = value(seed);
    let json = format!(
        r#"[{{"key":"{key}","value":"{value}","options":{{"consistency":"{consistency}"}}}}]"#
    );
    request("POST", "/v1.0/state/statestore", &json)
}

/// Durable saves over keys by number.
pub(crate) fn durable_saves(keys: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    keys.map(|key| save(&format!("k{key}"), key, "strong")).collect()
}

/// A message with a number that the app reads.
pub(crate) fn message(n: usize) -> String {
    format!(r#"{{"n":{n},"text":"{}"}}"#, value(n))
}

/// The rows that are plain HTTP requests.
pub(crate) fn all() -> Vec<Row> {
    let row = |name, key, requests, status, cpu_ratio_max| Row {
        name,
        key,
        requests,
        status,
        cpu_ratio_max,
        waits_for_disk: false,
    };
    let hot = 0..HOT_KEYS;
    let get = |key| request("GET", &format!("/v1.0/state/statestore/k{key}"), "");
    let eventual = |key| save(&format!("k{key}"), key, "eventual");
    let publish = |path: &str| vec![request("POST", path, &message(0))];
    vec![
        row("healthz", "healthz", vec![request("GET", "/v1.0/healthz", "")], 204, Some(1.5)),
        row("state get", "state_get", hot.clone().map(get).collect(), 200, Some(2.0)),
        row(
            "state save, eventual",
            "state_save",
            hot.clone().map(eventual).collect(),
            204,
            Some(2.6),
        ),
        Row {
            waits_for_disk: true,
            ..row("state save, durable", "state_save_durable", durable_saves(hot), 204, None)
        },
        row("publish, in memory", "publish", publish("/v1.0/publish/mempubsub/t"), 204, Some(3.2)),
        Row {
            waits_for_disk: true,
            ..row(
                "publish, embedded",
                "publish_embedded",
                publish("/v1.0/publish/pubsub/bench%2Fhttp"),
                204,
                None,
            )
        },
        row(
            "invoke",
            "invoke",
            vec![request("GET", "/v1.0/invoke/bench/method/echo/x", "")],
            200,
            Some(1.8),
        ),
    ]
}

/// Fills the store with `keys` values of [`VALUE_BYTES`], a hundred a request.
pub(crate) fn fill(address: SocketAddr, keys: usize) -> Result<()> {
    const TOGETHER: usize = 100;
    let requests: Vec<Vec<u8>> = (0..keys.div_ceil(TOGETHER))
        .map(|round| {
            let items: Vec<String> = (round * TOGETHER..(round + 1) * TOGETHER)
                .map(|key| {
                    let value = value(key);
                    format!(
                        r#"{{"key":"k{key}","value":"{value}","options":{{"consistency":"eventual"}}}}"#
                    )
                })
                .collect();
            request("POST", "/v1.0/state/statestore", &format!("[{}]", items.join(",")))
        })
        .collect();
    let count = requests.len();
    let target = Target { address, requests, status: 204 };
    load::run(&target, Shape::Closed { connections: 1 }, Until::Count(count))?;
    Ok(())
}
