//! Configuration stores that name a pub/sub component.

use super::*;

/// A component that only a configuration store uses is kept, and one that is not there is named.
#[test]
fn a_configuration_store_is_fed_by_what_it_names() {
    let feed = |pubsub: &str| {
        format!(
            "  version: v1\n  metadata:\n  - {{name: topic, value: config}}\n  - {{name: \
             PubsubName, value: {pubsub}}}\n"
        )
    };
    let cloud = component("cloud", "pubsub.mqtt3", "scopes: [nobody]\n");
    let other = component("other", "pubsub.mqtt3", "scopes: [nobody]\n");
    let text = component("cfg", "configuration.embedded", &feed("cloud")) + &cloud + &other;
    let (plan, problems, _) = read(Form::Run, &text);
    assert_eq!(problems, Vec::<String>::new());
    let names: Vec<_> = plan.components.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["cfg", "cloud"]);

    let text = component("cfg", "configuration.embedded", &feed("clout")) + &cloud;
    let (_, problems, _) = read(Form::Gateway, &text);
    let [problem] = problems.as_slice() else { panic!("{problems:#?}") };
    assert!(problem.contains("r.yaml:9: "), "{problem}");
    assert!(problem.contains("'clout': did you mean 'cloud'?"), "{problem}");
}
