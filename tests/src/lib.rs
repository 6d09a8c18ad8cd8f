//! What the black-box tests stand on: the real binary as a process, an HTTP client, and an app.
//!
//! ```no_run
//! # async fn test() {
//! use pillion_tests::{App, Setup};
//! let app = App::start(|_request| pillion_tests::json(200, "{}")).await;
//! let pillion = Setup::new().app(&app).resource("state.yaml", "…").start().await;
//! let answer = pillion.post("/v1.0/state/statestore", r#"[{"key":"a","value":1}]"#).await;
//! assert_eq!(answer.status, 204, "{}", pillion.log());
//! # }
//! ```

pub mod app;
pub mod certificates;
pub mod desk;
pub mod gateway;
pub mod http;
pub mod mosquitto;
pub mod mqtt;
pub mod pillion;
pub mod random;
pub mod release;
pub mod tool;

pub use app::{App, Asked, json};
pub use desk::Desk;
pub use gateway::Gateway;
pub use http::{Answer, Request};
pub use pillion::{Pillion, Setup};
pub use release::Workshop;
pub use tool::Tool;

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen soon, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until there is an answer. Panics after [`PATIENCE`] with `what`.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
