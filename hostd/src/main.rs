//! The one service of the appliance.

fn main() {}
