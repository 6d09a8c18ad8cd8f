//! MQTT's rules without I/O.
