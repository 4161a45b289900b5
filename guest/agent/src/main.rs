//! PID 1 inside a microVM: serves the Lambda Runtime API to the function's runtime.

fn main() {}
