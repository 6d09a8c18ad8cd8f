//! The `pillion` binary.

fn main() {}
