//! What a peer of HBONE says of itself. What has to hold is `mesh_agent::fuzzing`'s to say; run by `cargo xtask fuzz baggage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent::fuzzing::baggage(data));
