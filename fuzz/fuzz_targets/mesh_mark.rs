//! What agents tell each other of a message of HTTP/1. What has to hold is `mesh_agent::fuzzing`'s to say; run by `cargo xtask fuzz mesh_mark`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent::fuzzing::mesh_mark(data));
