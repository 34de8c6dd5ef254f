//! Benches of the request path.
fn main() {}
