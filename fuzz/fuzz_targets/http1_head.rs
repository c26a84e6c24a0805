//! Heads of HTTP/1, requests and responses. What has to hold is `mesh_agent::fuzzing`'s to say; run by `cargo xtask fuzz http1_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent::fuzzing::http1_head(data));
