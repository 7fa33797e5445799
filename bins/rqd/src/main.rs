//! rqd
fn main() {}
