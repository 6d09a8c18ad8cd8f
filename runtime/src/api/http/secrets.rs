//! `/v1.0/secrets`.
