//! Tokens and key sets. What has to hold is `mesh_agent::fuzzing`'s to say; run by `cargo xtask fuzz jwt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent::fuzzing::jwt(data));
