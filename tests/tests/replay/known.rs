//! Where we differ from the recordings on purpose, and why.

use crate::compare::Difference;

/// Scenarios that are replayed.
pub(crate) const REPLAYED: &[&str] = &[
    "state",
    "no-components",
    "secrets",
    "invoke",
    "pubsub",
    "pubsub-declarative",
    "bindings",
    "configuration-and-lock",
    "crypto",
];

/// Scenarios whose building blocks are not there yet.
pub(crate) const NOT_YET: &[(&str, &str)] = &[
    ("actors", "no actors yet"),
    ("app-pipeline-and-health", "no middleware yet"),
    ("invoke-remote", "two processes do not find each other yet"),
    ("jobs", "no jobs yet"),
    ("middleware", "no middleware yet"),
    ("outbox", "no outbox yet"),
    ("resiliency", "no policies yet"),
];

/// Cases that are asked again until they are answered as recorded: time has to pass.
pub(crate) const WAITS: &[&str] = &["ttl 1 over"];

/// Requests that come to the app by the clock, between all others: a scenario and their path.
pub(crate) const BEATS: &[(&str, &str)] = &[("bindings", "/tick")];

/// Subscriptions that do not start: with routing rules, which are not evaluated yet.
pub(crate) const SUBSCRIPTIONS_ABSENT: &[(&str, usize)] =
    &[("pubsub", 1), ("pubsub-declarative", 1)];

/// One entry.
#[derive(Debug)]
#[expect(dead_code, reason = "`why` is for people, in this list and in a report")]
pub(crate) struct Known {
    pub(crate) scenario: &'static str,
    /// Empty for any case of the scenario.
    pub(crate) case: &'static str,
    /// As [`Difference::part`]; empty leaves the case out altogether.
    pub(crate) part: &'static str,
    pub(crate) why: &'static str,
}

const fn known(
    scenario: &'static str,
    case: &'static str,
    part: &'static str,
    why: &'static str,
) -> Known {
    Known { scenario, case, part, why }
}

const STAMPED: &str = "who calls whom is always stamped by us, so that nobody can forge it";
const DECODER: &str = "texts of Go's decoder; ours name the place in words of their own";
const NUMBER_TEXT: &str = "the number's text is kept";
const RULES: &str = "routing rules are not evaluated yet";
const BULK: &str = "no bulk subscriptions yet";
const IN_ORDER: &str = "entries of a bulk publish keep their order; Dapr publishes them at once";
const SECRET_NUMBER: &str = "a number in a secrets file is its text, not Go's formatting error";

/// The list.
pub(crate) const KNOWN: &[Known] = &[
    known("state", "big integer", "body", NUMBER_TEXT),
    known("state", "float", "body", NUMBER_TEXT),
    known("state", "not an array", "message", DECODER),
    known("state", "broken JSON", "message", DECODER),
    known("state", "empty body", "message", DECODER),
    known("state", "bulk get broken", "message", DECODER),
    known("state", "tx bad request", "message", DECODER),
    known("state", "tx broken", "message", DECODER),
    known("state", "ttl not a number", "message", DECODER),
    known("state", "ttl number not string", "message", DECODER),
    known(
        "state",
        "bulk save one bad etag among good",
        "message",
        "the words before the store's message stand once",
    ),
    known("invoke", "", "app header dapr-caller-app-id", STAMPED),
    known("invoke", "", "app header dapr-callee-app-id", STAMPED),
    known("invoke", "", "app header dapr-caller-namespace", STAMPED),
    known("invoke", "event stream", "header traceparent", "every answer tells its trace"),
    known(
        "invoke",
        "headers",
        "app header dapr-api-token",
        "a token of the caller is not passed on",
    ),
    known("pubsub", "cloudevent, broken", "details metadata", DECODER),
    known("pubsub", "rule by type", "app requests", RULES),
    known("pubsub", "rule by data", "app requests", RULES),
    known("pubsub", "default route", "app requests", RULES),
    known("pubsub", "metadata", "body", RULES),
    known("pubsub", "bulk publish", "app body", IN_ORDER),
    known("pubsub", "bulk publish not a list", "message", DECODER),
    known("pubsub", "bulk publish broken", "message", DECODER),
    known("pubsub", "bulk publish bad base64", "message", DECODER),
    known("pubsub", "bulk publish bad base64", "details metadata", DECODER),
    known("pubsub", "bulk subscribe, message 0", "", BULK),
    known("pubsub", "bulk subscribe, message 1", "", BULK),
    known("pubsub", "bulk subscribe, message 2", "", BULK),
    known("pubsub-declarative", "delivered with the app's token", "app requests", RULES),
    known("pubsub-declarative", "rule", "app requests", RULES),
    known("pubsub-declarative", "metadata", "body", RULES),
    known("pubsub-declarative", "invoke with token", "app header dapr-caller-app-id", STAMPED),
    known("pubsub-declarative", "invoke with token", "app header dapr-callee-app-id", STAMPED),
    known("pubsub-declarative", "invoke with token", "app header dapr-caller-namespace", STAMPED),
    known("configuration-and-lock", "lock broken", "message", DECODER),
    known("bindings", "broken", "message", DECODER),
    known("secrets", "file num", "body", SECRET_NUMBER),
    known("secrets", "file nested:list:0", "body", SECRET_NUMBER),
    known("secrets", "multi nested", "body", SECRET_NUMBER),
    known("secrets", "file bulk", "body", SECRET_NUMBER),
    known("secrets", "multi bulk", "body", SECRET_NUMBER),
    known("secrets", "sep bulk", "body", SECRET_NUMBER),
    known("secrets", "allowed num", "body", SECRET_NUMBER),
    known("secrets", "allowed bulk", "body", SECRET_NUMBER),
];

/// The entry that leaves a case out.
pub(crate) fn case(scenario: &str, case: &str) -> Option<usize> {
    KNOWN
        .iter()
        .position(|known| known.scenario == scenario && known.case == case && known.part.is_empty())
}

/// Whether it is known that the app is not asked what the recording has, so that nobody waits.
pub(crate) fn expects_fewer_app_requests(scenario: &str, case: &str) -> bool {
    let fewer = |known: &&Known| known.part == "app requests" && known.case == case;
    of(scenario).any(|(_, known)| fewer(&known))
}

/// The entry that excuses a difference.
pub(crate) fn difference(scenario: &str, case: &str, difference: &Difference) -> Option<usize> {
    KNOWN.iter().position(|known| {
        known.scenario == scenario
            && (known.case == case || known.case.is_empty())
            && known.part == difference.part
    })
}

/// The entries of a scenario with their places in the list.
pub(crate) fn of(scenario: &str) -> impl Iterator<Item = (usize, &'static Known)> {
    let list = KNOWN.iter().enumerate();
    list.filter(move |(_, known)| known.scenario == scenario)
}
