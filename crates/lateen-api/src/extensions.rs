//! Istio's `extensions.istio.io` kinds: WebAssembly and Lua in the data plane.

mod traffic_extension;
mod wasm;

pub use traffic_extension::*;
pub use wasm::*;
