//! Puts the kernel programs' object where the library includes it from: `MESH_EBPF_OBJECT`, else `target/bpf/mesh-ebpf.o`
//! under the workspace, where `cargo xtask build` leaves it. Without one the library is built all the same, with an empty
//! object that `Kernel::load` refuses by name, so that checks and rust-analyzer need no BPF tool chain.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=MESH_EBPF_OBJECT");
    let object = env::var_os("MESH_EBPF_OBJECT").map_or_else(
        || {
            PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
                .join("../target/bpf/mesh-ebpf.o")
        },
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("mesh-ebpf.o");
    match fs::read(&object) {
        Ok(bytes) => fs::write(out, bytes),
        Err(error) => {
            println!(
                "cargo::warning=no kernel programs at {} ({error}): run `cargo xtask build`",
                object.display()
            );
            fs::write(out, [])
        }
    }
}
