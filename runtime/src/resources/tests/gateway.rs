//! The gateway and what is ours in its directory, read whole.

use super::*;

#[test]
fn a_gateway_with_everything() {
    let text = component("pubsub", "pubsub.embedded", "")
        + &component("cloud", "pubsub.mqtt3", "")
        + &component("keys", "secretstores.local.env", "")
        + &ours("Gateway", "g1", "  storage: {dataDir: /data, quotaBytes: 64Mi, logSegments: 4, segmentBytes: 8Mi, commitLingerMs: 2, eventualFlushMs: 500}
  mqtt:
    listen: 0.0.0.0:1883
    tls: {listen: '0.0.0.0:8883', certificate: /c, key: /k, clientCa: /ca}
    limits: {connectionsMax: 5, packetBytesMax: 1Mi, backlogBytesMax: 2Mi, backlogAgeMax: 1h, overflow: refuse, forgetAfter: 0s}
  metrics: {listen: 9100}
  logging: {level: debug, json: true, file: /log}
  flash: {bytesPerDay: 2G}
  limits: {bodyBytesMax: 1Mi, headerBytesMax: 8Ki, connectionsMax: 7, headerTimeout: 3s, drainTimeout: 4s}
")
        + &ours("App", "orders", "  listen: {http: ['3501', 'unix:/run/o.sock']}
  token: {secretKeyRef: {name: tokens, key: orders}}
  channel: {address: 8080, protocol: https, maxConcurrency: 4, token: {envRef: SET}}
  health: {path: /up, interval: 1s, timeout: 100ms, threshold: 2}
  configuration: c
  access: {topics: ['orders/#'], secrets: [keys], invoke: []}
").replace("---\n", "auth: {secretStore: keys}\n---\n")
        + &ours("MqttUser", "dev", "  passwordHash: {envRef: HASH}\n  publish: ['d/%c/#']\n")
        + &ours("Link", "up", "  local: pubsub
  remote: cloud
  up: [{filter: 'orders/#', mapTo: g1/, qos: 0, priority: 9, rate: 10, backlogBytesMax: 1Mi, backlogAgeMax: 24h, overflow: refuse}]
  down: [{filter: 'cmd/#'}]
")
        + "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n\
           \x20 tracing: {samplingRate: \"1\"}\n  metric: {enabled: false}\n\
           \x20 logging: {apiLogging: {enabled: true}}\n  secrets:\n    scopes:\n\
           \x20   - {storeName: $SET, defaultAccess: deny, allowedSecrets: [x]}\n\
           \x20 httpPipeline: {}\n";
    let (mut plan, problems, warnings) = read(Form::Gateway, &text);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("spec.httpPipeline is not honoured"), "{warnings:?}");

    let gateway = &plan.gateway;
    assert_eq!(gateway.name, "g1");
    assert_eq!(gateway.storage.quota_bytes, Some(64 << 20));
    assert_eq!(gateway.storage.segment_bytes, Some(8 << 20));
    assert_eq!(gateway.metrics, Some(([127, 0, 0, 1], 9100).into()));
    assert_eq!(gateway.limits.drain_timeout, Duration::from_secs(4));
    assert_eq!(gateway.logging.level, Some(tracing::Level::DEBUG));
    assert_eq!(gateway.flash.bytes_per_day, Some(2_000_000_000));
    let mqtt = gateway.mqtt.as_ref().expect("a door");
    assert_eq!((mqtt.pubsub.as_str(), mqtt.allow_anonymous), ("pubsub", false));
    assert_eq!(mqtt.limits.packet_bytes_max, 1 << 20);
    assert_eq!(mqtt.limits.queue.forget_after_ms, None);
    assert_eq!(mqtt.limits.queue.backlog_age_max_ms, Some(3_600_000));

    plan.resolve_tokens(|secret| Ok::<_, ()>(format!("{}/{}", secret.name, secret.key)))
        .expect("every secret has an answer");
    let app = &plan.apps[0];
    assert_eq!(app.listen, [([127, 0, 0, 1], 3501).into()]);
    assert_eq!(app.unix_socket.as_deref(), Some(Path::new("/run/o.sock")));
    assert_eq!(app.api_token.as_deref(), Some("tokens/orders"));
    assert_eq!(app.access.invoke, Some(vec![]));
    assert_eq!(app.access.stores, None);
    let channel = app.channel.as_ref().expect("a channel");
    assert_eq!((channel.host.as_str(), channel.port, channel.tls), ("127.0.0.1", 8080, true));
    assert_eq!(channel.token.as_deref(), Some("from-env"));
    assert_eq!(channel.health.as_ref().map(|health| health.threshold), Some(2));
    let configuration = &app.configuration;
    assert!(!configuration.metrics_enabled && configuration.api_logging.enabled);
    assert_eq!(configuration.sampling_rate, 1.0);
    let scope = &configuration.secret_scopes[0];
    assert_eq!(scope.store, "from-env");
    assert!(scope.allows("x") && !scope.allows("y"));

    let link = &plan.links[0];
    assert_eq!((link.up[0].qos, link.up[0].priority, link.up[0].rate), (0, 9, Some(10)));
    assert_eq!((link.down[0].qos, link.down[0].priority, link.down[0].rate), (1, 0, None));
}

#[test]
fn a_gateway_without_a_name_has_the_machine_s() {
    let limits = "spec:\n  limits: {}\n";
    let head = "---\napiVersion: pillion/v1alpha1\nkind: Gateway\n";
    for metadata in ["", "metadata:\n", "metadata: {}\n", "metadata: {name: ''}\n"] {
        let text = component("a", "state.redb", "  metadata: [{name: x, value: '{appID}'}]\n")
            + &format!("{head}{metadata}{limits}");
        let (plan, problems, _) = read(Form::Gateway, &text);
        assert_eq!(problems, Vec::<String>::new(), "{metadata:?}");
        assert_eq!(plan.gateway.name, "box", "{metadata:?}");
        let options =
            plan.components[0].options(|_, _| Ok::<_, ()>(String::new())).expect("no secrets");
        assert_eq!(options.text("x"), Some("box"), "{metadata:?}");
    }
    check_problem_lenient(&format!("{head}metadata: {{nam: a}}\n{limits}"), 4, "nam");
}

#[test]
fn who_may_update_and_how_it_is_tried() {
    let gateway = |update: &str| {
        let head = "apiVersion: pillion/v1alpha1\nkind: Gateway\nmetadata: {name: g}\n";
        format!("{head}spec: {{update: {{{update}}}, mqtt: {{}}}}\n")
    };
    let update = |text: &str| read(Form::Gateway, &gateway(text)).0.gateway.update;
    assert_eq!((update("").keys, update("").attempts), (vec![], 3));
    let full = update("keys: [/a.pem], readyTimeout: 2s, probation: 100ms, attempts: 7");
    let (ready, probation) = (Duration::from_secs(2), Duration::from_millis(100));
    assert_eq!((full.ready_timeout, full.probation, full.attempts), (ready, probation, 7));
    assert_eq!(full.keys, [UpdateKey::File("/a.pem".into())]);
    for wrong in ["keys: [a.pem]", "probation: 0s", "readyTimeout: 25h", "attempts: 0", "key: x"] {
        let key = wrong.split(':').next().expect("a key");
        let text = gateway(wrong).replace(", mqtt: {}", "");
        check_problem(&text, 4, &format!("spec.update.{key}"));
    }
}
