//! Goal: whatever a running Dapr answered, and whatever it asked of its app, ours does too.
//!
//! Method: the recordings in `recorded/` are replayed request by request against the real binary
//! with a real app behind it; `recorded/README.md` says how they are to be read. Where we differ
//! on purpose, `known.rs` says so and why; an entry there that no longer differs is an error.

mod compare;
mod known;
mod record;
mod substitutes;

use compare::Context;
use hyper::ext::ReasonPhrase;
use pillion_tests::pillion::has_feature;
use pillion_tests::{Answer, App, Asked, Pillion, Request, Setup, json, until};
use record::{AppRequest, Case, Scenario};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long the app's part of a case may take.
const APP_PATIENCE: Duration = Duration::from_secs(5);

/// How long the app may take to be asked what it is asked at the start.
const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn state() {
    replay("state").await;
}

#[tokio::test]
async fn no_components() {
    replay("no-components").await;
}

#[tokio::test]
async fn secrets() {
    replay("secrets").await;
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "whoever reads the log must see it")]
async fn crypto() {
    if !has_feature("crypto") {
        eprintln!("NOT REPLAYED: crypto, which this binary was built without");
        return;
    }
    replay("crypto").await;
}

#[tokio::test]
async fn invoke() {
    replay("invoke").await;
}

#[tokio::test]
async fn pubsub() {
    replay("pubsub").await;
}

#[tokio::test]
async fn pubsub_declarative() {
    replay("pubsub-declarative").await;
}

#[tokio::test]
async fn configuration_and_lock() {
    replay("configuration-and-lock").await;
}

#[tokio::test]
async fn bindings() {
    replay("bindings").await;
}

#[test]
fn every_recording_is_replayed_or_named_as_not_yet() {
    let named: BTreeSet<&str> = known::NOT_YET.iter().map(|(name, _)| *name).collect();
    for name in record::all() {
        let replayed = known::REPLAYED.contains(&name.as_str());
        assert!(
            replayed != named.contains(name.as_str()),
            "{name}: replayed and named, or neither"
        );
    }
}

/// Runs one scenario and lists every difference at once.
async fn replay(name: &str) {
    let mut scenario = Scenario::read(name);
    substitutes::apply(&mut scenario);
    let answers = scenario.app_answers.clone();
    let app = App::start(move |asked| {
        let mut answer = app_answer(&answers, asked);
        // The word that the recorded app wrote beside every status.
        answer.extensions_mut().insert(ReasonPhrase::from_static(b"X"));
        answer
    })
    .await;
    let mut setup = Setup::new();
    if !scenario.at_start.is_empty() {
        setup = setup.app(&app);
    }
    let fill = |setup: &Setup, text: &str| {
        text.replace("{dir}", &setup.dir().display().to_string())
            .replace("{app_port}", &app.port.to_string())
    };
    for (file, text) in &scenario.resources {
        let text = fill(&setup, text);
        setup = setup.resource(file, &text);
    }
    for (file, text) in &scenario.files {
        setup = setup.file(file, text);
    }
    if let Some(config) = &scenario.config {
        let text = fill(&setup, config);
        setup = setup.config(&text);
    }
    for (name, value) in &scenario.env {
        setup = setup.env(name, value);
    }
    let args: Vec<_> = scenario.args.iter().map(|arg| fill(&setup, arg)).collect();
    let mut pillion = setup.args(args).start().await;

    let mut run = Run {
        scenario: &scenario,
        context: Context::new(app.port, &pillion),
        app: &app,
        seen: Seen::default(),
        wrong: Vec::new(),
        excused: BTreeSet::new(),
    };
    run.start(&pillion).await;
    for case in &scenario.cases {
        run.case(case, &pillion).await;
    }
    let ended_by_a_case =
        scenario.cases.last().is_some_and(|case| case.path.ends_with("/shutdown"));
    let status = if ended_by_a_case { pillion.ended().await } else { pillion.stop().await };
    if status.code() != Some(scenario.exit_code) {
        run.wrong.push(format!("exit: {status}, recorded {}", scenario.exit_code));
    }
    run.report(&pillion);
}

/// The app of the recordings.
fn app_answer(answers: &Value, asked: &Asked) -> hyper::Response<bytes::Bytes> {
    let path = asked.path.split('?').next().unwrap_or_default();
    let found = answers.get(path).or_else(|| answers.get(format!("{} {path}", asked.method)));
    if let Some(answer) = found {
        if let (Some(status), Some(body)) = (answer["status"].as_u64(), answer["body"].as_str()) {
            return json(u16::try_from(status).expect("a status"), body.to_owned());
        }
        return json(200, bulk_success(&asked.body));
    }
    if path.starts_with("/echo") {
        return json(200, asked.body.clone());
    }
    let status = path.strip_prefix("/status/").and_then(|rest| rest.split('/').next());
    match status.and_then(|status| status.parse().ok()) {
        Some(status @ (204 | 304)) => json(status, ""),
        Some(status) => json(status, r#"{"from":"app"}"#),
        None => json(404, ""),
    }
}

/// The answer to a bulk delivery that takes every entry.
fn bulk_success(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let entries = body["entries"].as_array().cloned().unwrap_or_default();
    let statuses: Vec<Value> = entries
        .iter()
        .map(|entry| serde_json::json!({"entryId": entry["entryId"], "status": "SUCCESS"}))
        .collect();
    serde_json::json!({ "statuses": statuses }).to_string()
}

struct Run<'a> {
    scenario: &'a Scenario,
    context: Context,
    app: &'a App,
    seen: Seen,
    wrong: Vec<String>,
    /// Entries of the list of known differences that were met.
    excused: BTreeSet<usize>,
}

/// Requests to the app that cases have accounted for.
#[derive(Default)]
struct Seen {
    beats: usize,
    others: usize,
}

impl Run<'_> {
    /// Compares what the app was asked at the start, and waits until its subscriptions stand.
    async fn start(&mut self, pillion: &Pillion) {
        let scenario = self.scenario;
        let asked = self.meanwhile(&scenario.at_start, PATIENCE).await;
        let mut differences = compare::count(scenario.at_start.len(), &asked);
        for (expected, asked) in scenario.at_start.iter().zip(&asked) {
            differences.extend(self.context.asked(expected, asked));
        }
        self.judge("at start", differences);
        let absent = known::SUBSCRIPTIONS_ABSENT.iter();
        let absent = absent.filter(|(name, _)| *name == self.scenario.name).map(|(_, n)| n);
        let subscriptions = self.scenario.subscriptions() - absent.sum::<usize>();
        if subscriptions > 0 {
            let token = self.scenario.api_token();
            until("the subscriptions", || async {
                let mut request = Request::new(hyper::Method::GET, "/v1.0/metadata");
                if let Some(token) = token {
                    request = request.header("dapr-api-token", token);
                }
                let list = pillion.send(request).await.json();
                let count = list["subscriptions"].as_array().map_or(0, Vec::len);
                (count >= subscriptions).then_some(())
            })
            .await;
        }
    }

    async fn case(&mut self, case: &Case, pillion: &Pillion) {
        if let Some(index) = known::case(&self.scenario.name, &case.name) {
            self.excused.insert(index);
            return;
        }
        for deed in substitutes::deeds(&self.scenario.name, &case.name) {
            let done = pillion.post(deed.path, deed.body).await;
            assert_eq!(done.status, 204, "{}: {done:?}", deed.path);
        }
        let request = self.context.request(case);
        let answered = self.send(case, request, pillion).await;
        match answered {
            Ok(answer) => {
                let differences = self.context.answer(case, &answer);
                self.judge(&case.name, differences);
            }
            Err(_) if case.failed => {}
            Err(error) => self.wrong.push(format!("{}: {error}", case.name)),
        }
        self.app_asked(case).await;
    }

    async fn send(
        &self,
        case: &Case,
        request: Request,
        pillion: &Pillion,
    ) -> std::io::Result<Answer> {
        if known::WAITS.contains(&case.name.as_str()) {
            return Ok(until(&case.name, || async {
                let answer = request.clone().send(pillion.port).await.ok()?;
                (Some(answer.status) == case.status).then_some(answer)
            })
            .await);
        }
        request.send(pillion.port).await
    }

    /// Compares what the app was asked meanwhile. One request too many shows in the next case
    /// that expects any, or in the last.
    async fn app_asked(&mut self, case: &Case) {
        if case.app.is_empty() {
            return;
        }
        let absent = known::expects_fewer_app_requests(&self.scenario.name, &case.name);
        let patience = if absent { APP_PATIENCE / 20 } else { APP_PATIENCE };
        let meanwhile = self.meanwhile(&case.app, patience).await;
        let mut differences = compare::count(case.app.len(), &meanwhile);
        for (expected, asked) in case.app.iter().zip(&meanwhile) {
            differences.extend(self.context.asked(expected, asked));
        }
        self.judge(&case.name, differences);
    }

    fn is_beat(&self, path: &str) -> bool {
        known::BEATS.contains(&(self.scenario.name.as_str(), path))
    }

    /// The next requests to the app, in the order of those expected; fewer after `patience`.
    async fn meanwhile(&mut self, expected: &[AppRequest], patience: Duration) -> Vec<Asked> {
        let begun = Instant::now();
        let beats = expected.iter().filter(|one| self.is_beat(&one.path)).count();
        let others = expected.len() - beats;
        let (beats_seen, others_seen) = (self.seen.beats, self.seen.others);
        let found = until("requests to the app", || {
            let asked = self.app.asked().into_iter();
            let (beat, other): (Vec<_>, Vec<_>) = asked.partition(|one| self.is_beat(&one.path));
            let beat: Vec<_> = beat.into_iter().skip(beats_seen).take(beats).collect();
            let other: Vec<_> = other.into_iter().skip(others_seen).take(others).collect();
            let whole = beat.len() == beats && other.len() == others;
            let done = whole || begun.elapsed() >= patience;
            std::future::ready(done.then_some((beat, other)))
        })
        .await;
        let (mut beat, mut other) = (found.0.into_iter(), found.1.into_iter());
        let next = |one: &AppRequest| {
            if self.is_beat(&one.path) { beat.next() } else { other.next() }
        };
        let asked: Vec<Asked> = expected.iter().filter_map(next).collect();
        let beats = asked.iter().filter(|one| self.is_beat(&one.path)).count();
        self.seen.beats += beats;
        self.seen.others += asked.len() - beats;
        asked
    }

    /// Keeps what no entry of the list excuses.
    fn judge(&mut self, case: &str, differences: Vec<compare::Difference>) {
        for difference in differences {
            match known::difference(&self.scenario.name, case, &difference) {
                Some(index) => {
                    self.excused.insert(index);
                }
                None => self.wrong.push(format!("{case}: {difference}")),
            }
        }
    }

    fn report(mut self, pillion: &Pillion) {
        let asked = self.app.asked().into_iter().filter(|one| !self.is_beat(&one.path));
        let more: Vec<Asked> = asked.skip(self.seen.others).collect();
        for asked in more {
            self.wrong.push(format!("the app was asked once more: {asked:?}"));
        }
        for (index, entry) in known::of(&self.scenario.name) {
            if !self.excused.contains(&index) {
                self.wrong.push(format!("no longer differs: {entry:?}"));
            }
        }
        assert!(
            self.wrong.is_empty(),
            "{} differences in {}:\n{}\n{}",
            self.wrong.len(),
            self.scenario.name,
            self.wrong.join("\n"),
            pillion.log(),
        );
    }
}
