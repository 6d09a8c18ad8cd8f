//! Where we differ from the recordings on purpose, and why.

use crate::compare::Difference;

/// Scenarios that are replayed.
pub(crate) const REPLAYED: &[&str] =
    &["state", "no-components", "secrets", "invoke", "pubsub", "pubsub-declarative"];

/// Scenarios whose building blocks are not there yet.
pub(crate) const NOT_YET: &[(&str, &str)] = &[
    ("actors", "no actors yet"),
    ("app-pipeline-and-health", "no middleware yet"),
    ("bindings", "no bindings yet"),
    ("configuration-and-lock", "no configuration stores and locks yet"),
    ("crypto", "no cryptography yet"),
    ("invoke-remote", "two processes do not find each other yet"),
    ("jobs", "no jobs yet"),
    ("middleware", "no middleware yet"),
    ("outbox", "no outbox yet"),
    ("resiliency", "no policies yet"),
];

/// Cases that are asked again until they are answered as recorded: time has to pass.
pub(crate) const WAITS: &[&str] = &["ttl 1 over"];

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

const DECODER: &str = "texts of Go's decoder; ours name the place in words of their own";
const NUMBER_TEXT: &str = "the number's text is kept";
const SCOPES: &str = "no scopes of secrets yet";
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
    known("secrets", "file num", "body", SECRET_NUMBER),
    known("secrets", "file nested:list:0", "body", SECRET_NUMBER),
    known("secrets", "multi nested", "body", SECRET_NUMBER),
    known("secrets", "file bulk", "body", SECRET_NUMBER),
    known("secrets", "multi bulk", "body", SECRET_NUMBER),
    known("secrets", "sep bulk", "body", SECRET_NUMBER),
    known("secrets", "allowed num", "body", SECRET_NUMBER),
    known("secrets", "allowed bulk", "", SCOPES),
    known("secrets", "denied bulk", "", SCOPES),
    known("secrets", "denied num", "", SCOPES),
    known("secrets", "allowed top", "", SCOPES),
];

/// The entry that leaves a case out.
pub(crate) fn case(scenario: &str, case: &str) -> Option<usize> {
    KNOWN
        .iter()
        .position(|known| known.scenario == scenario && known.case == case && known.part.is_empty())
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
