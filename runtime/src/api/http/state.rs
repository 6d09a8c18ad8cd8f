//! `/v1.0/state`.
