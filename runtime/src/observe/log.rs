//! Log lines in logfmt or JSON.
