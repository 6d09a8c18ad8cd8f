//! The families of metrics there are. Names and labels that Dapr has are Dapr's.

use super::{Counter, Family, Gauge, Histogram};

/// Requests answered by the HTTP door.
pub static HTTP_SERVER_REQUESTS: Family<Counter> = Family::new(
    "dapr_http_server_request_count",
    "Requests answered by the HTTP API",
    &["app_id", "method", "path", "status"],
);

/// How long the HTTP door took.
pub static HTTP_SERVER_LATENCY: Family<Histogram> = Family::new(
    "dapr_http_server_latency",
    "Time to the answer's head in milliseconds",
    &["app_id", "method", "path", "status"],
);

/// Calls answered by an app.
pub static HTTP_CLIENT_COMPLETED: Family<Counter> = Family::new(
    "dapr_http_client_completed_count",
    "Calls answered by the app",
    &["app_id", "method", "path", "status"],
);

/// How long an app took.
pub static HTTP_CLIENT_LATENCY: Family<Histogram> = Family::new(
    "dapr_http_client_roundtrip_latency",
    "Time to the app's answer in milliseconds",
    &["app_id", "method", "path", "status"],
);

/// Calls to state stores.
pub static STATE_COUNT: Family<Counter> = Family::new(
    "dapr_component_state_count",
    "Calls to state stores",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// How long state stores took.
pub static STATE_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_state_latencies",
    "Time of a call to a state store in milliseconds",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// Calls to secret stores.
pub static SECRET_COUNT: Family<Counter> = Family::new(
    "dapr_component_secret_count",
    "Calls to secret stores",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// How long secret stores took.
pub static SECRET_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_secret_latencies",
    "Time of a call to a secret store in milliseconds",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// Calls to configuration stores.
pub static CONFIGURATION_COUNT: Family<Counter> = Family::new(
    "dapr_component_configuration_count",
    "Calls to configuration stores",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// How long configuration stores took.
pub static CONFIGURATION_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_configuration_latencies",
    "Time of a call to a configuration store in milliseconds",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// Messages that a topic has brought to a configuration store.
pub static CONFIGURATION_FED: Family<Counter> = Family::new(
    "pillion_configuration_fed_total",
    "Messages taken from the topic that feeds a configuration store",
    &["component", "outcome"],
);

/// Calls of output bindings.
pub static OUTPUT_BINDING_COUNT: Family<Counter> = Family::new(
    "dapr_component_output_binding_count",
    "Calls of output bindings",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// How long output bindings took.
pub static OUTPUT_BINDING_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_output_binding_latencies",
    "Time of a call of an output binding in milliseconds",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// Events of input bindings delivered to apps.
pub static INPUT_BINDING_COUNT: Family<Counter> = Family::new(
    "dapr_component_input_binding_count",
    "Events of input bindings delivered to apps",
    &["app_id", "component", "namespace", "success"],
);

/// How long apps took with an event.
pub static INPUT_BINDING_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_input_binding_latencies",
    "Time an app took with an event of an input binding in milliseconds",
    &["app_id", "component", "namespace", "success"],
);

/// Calls to crypto providers.
#[cfg(feature = "crypto")]
pub static CRYPTO_COUNT: Family<Counter> = Family::new(
    "dapr_component_crypto_count",
    "Calls to crypto providers",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// How long crypto providers took.
#[cfg(feature = "crypto")]
pub static CRYPTO_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_crypto_latencies",
    "Time of a call to a crypto provider in milliseconds",
    &["app_id", "component", "namespace", "operation", "success"],
);

/// Messages published.
pub static PUBSUB_EGRESS_COUNT: Family<Counter> = Family::new(
    "dapr_component_pubsub_egress_count",
    "Messages published",
    &["app_id", "component", "namespace", "success", "topic"],
);

/// How long publishing took.
pub static PUBSUB_EGRESS_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_pubsub_egress_latencies",
    "Time of a publish in milliseconds",
    &["app_id", "component", "namespace", "success", "topic"],
);

/// Bulk publications.
pub static PUBSUB_EGRESS_BULK_COUNT: Family<Counter> = Family::new(
    "dapr_component_pubsub_egress_bulk_count",
    "Bulk publications",
    &["app_id", "component", "namespace", "success", "topic"],
);

/// How long bulk publications took.
pub static PUBSUB_EGRESS_BULK_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_pubsub_egress_bulk_latencies",
    "Time of a bulk publication in milliseconds",
    &["app_id", "component", "namespace", "success", "topic"],
);

/// Messages delivered to apps.
pub static PUBSUB_INGRESS_COUNT: Family<Counter> = Family::new(
    "dapr_component_pubsub_ingress_count",
    "Messages delivered to apps",
    &["app_id", "component", "namespace", "process_status", "status", "topic"],
);

/// How long apps took with a message.
pub static PUBSUB_INGRESS_LATENCY: Family<Histogram> = Family::new(
    "dapr_component_pubsub_ingress_latencies",
    "Time an app took with a message in milliseconds",
    &["app_id", "component", "namespace", "process_status", "status", "topic"],
);

/// Calls sent to an app by service invocation.
pub static INVOKE_SENT: Family<Counter> = Family::new(
    "dapr_runtime_service_invocation_req_sent_total",
    "Calls sent by service invocation",
    &["app_id", "dst_app_id", "type"],
);

/// Calls received by service invocation.
pub static INVOKE_RECEIVED: Family<Counter> = Family::new(
    "dapr_runtime_service_invocation_req_recv_total",
    "Calls received by service invocation",
    &["app_id", "src_app_id"],
);

/// Answers that an app gave to calls by service invocation.
pub static INVOKE_ANSWERS_SENT: Family<Counter> = Family::new(
    "dapr_runtime_service_invocation_res_sent_total",
    "Answers sent by service invocation",
    &["app_id", "dst_app_id", "status"],
);

/// Answers that an app got to its calls by service invocation.
pub static INVOKE_ANSWERS_RECEIVED: Family<Counter> = Family::new(
    "dapr_runtime_service_invocation_res_recv_total",
    "Answers received by service invocation",
    &["app_id", "src_app_id", "status", "type"],
);

/// How long service invocation took.
pub static INVOKE_ANSWER_LATENCY: Family<Histogram> = Family::new(
    "dapr_runtime_service_invocation_res_recv_latency_ms",
    "Time to the answer's head in milliseconds",
    &["app_id", "src_app_id", "status"],
);

/// Components opened.
pub static COMPONENT_LOADED: Family<Counter> =
    Family::new("dapr_runtime_component_loaded", "Components loaded", &["app_id"]);

/// Components whose start was tried.
pub static COMPONENT_INIT: Family<Counter> = Family::new(
    "dapr_runtime_component_init_total",
    "Components initialised",
    &["app_id", "component"],
);

/// Components that failed to start.
pub static COMPONENT_INIT_FAIL: Family<Counter> = Family::new(
    "dapr_runtime_component_init_fail_total",
    "Components that failed to initialise",
    &["app_id", "component", "component_name", "reason"],
);

/// Bytes written to log and tree.
pub static STORAGE_WRITTEN: Family<Counter> =
    Family::new("pillion_storage_written_bytes_total", "Bytes written to log and tree", &[]);

/// Syncs of the log.
pub static STORAGE_SYNCS: Family<Counter> =
    Family::new("pillion_storage_log_syncs_total", "Syncs of the log", &[]);

/// Batches written to the log.
pub static STORAGE_BATCHES: Family<Counter> =
    Family::new("pillion_storage_log_batches_total", "Batches written to the log", &[]);

/// Checkpoints finished.
pub static STORAGE_CHECKPOINTS: Family<Counter> =
    Family::new("pillion_storage_checkpoints_total", "Checkpoints finished", &[]);

/// Bytes on disk.
pub static STORAGE_DISK: Family<Gauge> =
    Family::new("pillion_storage_disk_bytes", "Bytes of log and tree on disk", &[]);

/// Memory of the index.
pub static STORAGE_INDEX: Family<Gauge> =
    Family::new("pillion_storage_index_bytes", "Memory of the index in bytes", &[]);

/// New data is refused.
pub static STORAGE_FULL: Family<Gauge> =
    Family::new("pillion_storage_full", "1 while new data is refused for want of room", &[]);

/// Storage is not well.
pub static STORAGE_UNHEALTHY: Family<Gauge> =
    Family::new("pillion_storage_unhealthy", "1 while storage reports damage or failure", &[]);

/// MQTT clients connected.
pub static MQTT_CONNECTIONS: Family<Gauge> =
    Family::new("pillion_mqtt_connections", "MQTT clients connected", &["listener"]);

/// MQTT packets received and sent.
pub static MQTT_PACKETS: Family<Counter> =
    Family::new("pillion_mqtt_packets_total", "MQTT packets", &["direction", "type"]);

/// Persistent MQTT sessions, connected or not.
pub static MQTT_SESSIONS: Family<Gauge> =
    Family::new("pillion_mqtt_sessions", "Persistent MQTT sessions", &[]);

/// MQTT messages left out by a named limit or right.
pub static MQTT_DROPPED: Family<Counter> =
    Family::new("pillion_mqtt_dropped_total", "MQTT messages left out", &["reason"]);

/// MQTT clients that were not let in.
pub static MQTT_REFUSED: Family<Counter> =
    Family::new("pillion_mqtt_refused_total", "MQTT clients that were not let in", &["reason"]);

/// Messages that a link moved.
pub static LINK_MESSAGES: Family<Counter> = Family::new(
    "pillion_link_messages_total",
    "Messages acknowledged by the other side of a link",
    &["direction", "link"],
);

/// Whether a link's other side can be reached.
pub static LINK_CONNECTED: Family<Gauge> =
    Family::new("pillion_link_connected", "1 while the link's remote can be reached", &["link"]);

/// Messages dropped by a named limit.
pub static QUEUE_DROPPED: Family<Counter> = Family::new(
    "pillion_queue_dropped_total",
    "Messages dropped from a queue by a named limit",
    &["component", "consumer", "reason"],
);

/// Messages waiting in a queue.
pub static QUEUE_BACKLOG: Family<Gauge> = Family::new(
    "pillion_queue_messages",
    "Messages waiting in a queue",
    &["component", "consumer"],
);

/// Appends every family to `out`.
pub fn write_all(out: &mut String) {
    HTTP_SERVER_REQUESTS.write(out);
    HTTP_SERVER_LATENCY.write(out);
    HTTP_CLIENT_COMPLETED.write(out);
    HTTP_CLIENT_LATENCY.write(out);
    STATE_COUNT.write(out);
    STATE_LATENCY.write(out);
    SECRET_COUNT.write(out);
    SECRET_LATENCY.write(out);
    CONFIGURATION_COUNT.write(out);
    CONFIGURATION_LATENCY.write(out);
    CONFIGURATION_FED.write(out);
    OUTPUT_BINDING_COUNT.write(out);
    OUTPUT_BINDING_LATENCY.write(out);
    INPUT_BINDING_COUNT.write(out);
    INPUT_BINDING_LATENCY.write(out);
    #[cfg(feature = "crypto")]
    CRYPTO_COUNT.write(out);
    #[cfg(feature = "crypto")]
    CRYPTO_LATENCY.write(out);
    PUBSUB_EGRESS_COUNT.write(out);
    PUBSUB_EGRESS_LATENCY.write(out);
    PUBSUB_EGRESS_BULK_COUNT.write(out);
    PUBSUB_EGRESS_BULK_LATENCY.write(out);
    PUBSUB_INGRESS_COUNT.write(out);
    PUBSUB_INGRESS_LATENCY.write(out);
    INVOKE_SENT.write(out);
    INVOKE_RECEIVED.write(out);
    INVOKE_ANSWERS_SENT.write(out);
    INVOKE_ANSWERS_RECEIVED.write(out);
    INVOKE_ANSWER_LATENCY.write(out);
    COMPONENT_LOADED.write(out);
    COMPONENT_INIT.write(out);
    COMPONENT_INIT_FAIL.write(out);
    STORAGE_WRITTEN.write(out);
    STORAGE_SYNCS.write(out);
    STORAGE_BATCHES.write(out);
    STORAGE_CHECKPOINTS.write(out);
    STORAGE_DISK.write(out);
    STORAGE_INDEX.write(out);
    STORAGE_FULL.write(out);
    STORAGE_UNHEALTHY.write(out);
    MQTT_CONNECTIONS.write(out);
    MQTT_PACKETS.write(out);
    MQTT_SESSIONS.write(out);
    MQTT_DROPPED.write(out);
    MQTT_REFUSED.write(out);
    LINK_MESSAGES.write(out);
    LINK_CONNECTED.write(out);
    QUEUE_DROPPED.write(out);
    QUEUE_BACKLOG.write(out);
}
