//! What stands in for components of a recording that this build does not have.
//!
//! A substitute replaces texts of the recorded resources and, where an answer shows the component,
//! the same in the answer: what is left is compared as in every other scenario.

use crate::record::Scenario;

/// What is done instead of what the recorder did outside of the sidecar.
pub(crate) struct Deed {
    /// Before this case.
    pub(crate) before: &'static str,
    /// A POST to the API, answered with 204.
    pub(crate) path: &'static str,
    pub(crate) body: &'static str,
}

/// One entry.
pub(crate) struct Substitute {
    scenario: &'static str,
    #[expect(dead_code, reason = "for people, in this list")]
    why: &'static str,
    /// Texts of the resources and what stands in their place; each must occur.
    resources: &'static [(&'static str, &'static str)],
    /// The same for recorded answers.
    answers: &'static [(&'static str, &'static str)],
    /// Resources and files that come besides.
    more_resources: &'static [(&'static str, &'static str)],
    files: &'static [(&'static str, &'static str)],
    args: &'static [&'static str],
    pub(crate) deeds: &'static [Deed],
}

const REDIS: &str = "  metadata:
  - name: redisHost
    value: \"127.0.0.1:37803\"
  - name: redisPassword
    value: \"\"
";

/// The list.
const SUBSTITUTES: &[Substitute] = &[Substitute {
    scenario: "configuration-and-lock",
    why: "recorded with a redis: its items and its change are told by a file and a topic here",
    resources: &[
        ("type: configuration.redis", "type: configuration.embedded"),
        ("type: lock.redis", "type: lock.embedded"),
        (
            REDIS,
            "  metadata:
  - name: itemsFile
    value: \"{dir}/items.json\"
  - name: pubsubName
    value: feed
  - name: topic
    value: config
",
        ),
        (REDIS, ""),
    ],
    answers: &[
        (r#""type":"configuration.redis""#, r#""type":"configuration.embedded""#),
        (
            r#"{"name":"lock","type":"lock.redis","version":"v1"}"#,
            r#"{"name":"lock","type":"lock.embedded","version":"v1"},{"name":"feed",
            "type":"pubsub.in-memory","version":"v1","capabilities":["SUBSCRIBE_WILDCARDS"]}"#,
        ),
    ],
    more_resources: &[(
        "s.yaml",
        "apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: feed
spec:
  type: pubsub.in-memory
  version: v1
",
    )],
    files: &[(
        "items.json",
        r#"{"cfg1": {"value": "one", "version": "v1"}, "cfg2": {"value": "two", "version": ""}}"#,
    )],
    // The recorded sidecar had no pub/sub and did not ask for subscriptions.
    args: &["--data-dir", "{dir}/data", "--disable-init-endpoints", "subscribe"],
    deeds: &[Deed {
        before: "update delivered",
        path: "/v1.0/publish/feed/config/cfg1?metadata.rawPayload=true&metadata.version=v2",
        body: "three",
    }],
}];

/// The substitute of a scenario.
pub(crate) fn of(scenario: &str) -> Option<&'static Substitute> {
    SUBSTITUTES.iter().find(|substitute| substitute.scenario == scenario)
}

/// What is to be done before this case.
pub(crate) fn deeds(scenario: &str, case: &str) -> impl Iterator<Item = &'static Deed> {
    let deeds = of(scenario).map_or(&[][..], |substitute| substitute.deeds);
    deeds.iter().filter(move |deed| deed.before == case)
}

/// Puts the substitute of the scenario in place.
pub(crate) fn apply(scenario: &mut Scenario) {
    let Some(substitute) = of(&scenario.name) else { return };
    for (from, to) in substitute.resources {
        let found = scenario.resources.iter_mut().find(|(_, text)| text.contains(from));
        let (_, text) = found.unwrap_or_else(|| panic!("no resource has {from}"));
        *text = text.replacen(from, to, 1);
    }
    for (from, to) in substitute.answers {
        let answers = scenario.cases.iter_mut().map(|case| &mut case.answer_body);
        let mut found = answers.filter(|text| text.contains(from)).peekable();
        assert!(found.peek().is_some(), "no answer has {from}");
        found.for_each(|text| *text = text.replace(from, to));
    }
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    scenario.resources.extend(substitute.more_resources.iter().map(owned));
    scenario.files.extend(substitute.files.iter().map(owned));
    scenario.args.extend(substitute.args.iter().map(|arg| (*arg).to_owned()));
    for deed in substitute.deeds {
        let is_there = scenario.cases.iter().any(|case| case.name == deed.before);
        assert!(is_there, "no case {}", deed.before);
    }
}
