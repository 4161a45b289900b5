//! Every performance claim as a runnable comparison.

fn main() {}
