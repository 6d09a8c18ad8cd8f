//! Durable streams: append, consumers with cursors, windows of acknowledgements.
