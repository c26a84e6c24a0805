//! Heads of HTTP/2, and what a CONNECT asks for. What has to hold is `mesh_agent::fuzzing`'s to say; run by `cargo xtask fuzz connect_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent::fuzzing::connect_request(data));
