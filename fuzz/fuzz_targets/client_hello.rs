//! First bytes of a connection: which protocol. What has to hold is `mesh_agent::fuzzing`'s to say; run by `cargo xtask fuzz client_hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_agent::fuzzing::client_hello(data));
