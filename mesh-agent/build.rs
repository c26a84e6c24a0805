//! Puts what isn't Rust where the library includes it from: the kernel programs' object and the files of the page.
//!
//! The object is `MESH_EBPF_OBJECT`, else `target/bpf/mesh-ebpf.o` under the workspace; the page is `MESH_PAGE`, else
//! `target/page`: `cargo xtask build` leaves both there. Without them the library is built all the same, with an empty object that
//! `Kernel::load` refuses by name and no file of the page, so that checks and rust-analyzer need neither tool chain.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    kernel_programs(&out)?;
    page(&out)
}

fn kernel_programs(out: &Path) -> io::Result<()> {
    let object = built("MESH_EBPF_OBJECT", "bpf/mesh-ebpf.o");
    let out = out.join("mesh-ebpf.o");
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

/// A table of the page's files, each compressed already.
fn page(out: &Path) -> io::Result<()> {
    let dir = built("MESH_PAGE", "page");
    let mut files = Vec::new();
    if dir.is_dir() {
        find(&dir, "", &mut files)?;
    }
    files.sort();
    let mut table = String::from("pub(super) static ALL: &[File] = &[\n");
    for (name, file) in &files {
        // Writing to a String can't fail.
        let _ = writeln!(table, "    File {{ path: {name:?}, content: include_bytes!({file:?}) }},");
    }
    table.push_str("];\n");
    fs::write(out.join("page.rs"), table)
}

fn find(dir: &Path, below: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            find(&entry.path(), &format!("{name}/"), files)?;
        } else if let Some(name) = name.strip_suffix(".gz") {
            files.push((name.to_owned(), fs::canonicalize(entry.path())?));
        }
    }
    Ok(())
}

/// What the environment names, else what `cargo xtask build` has left.
fn built(variable: &str, name: &str) -> PathBuf {
    println!("cargo::rerun-if-env-changed={variable}");
    let default =
        || Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../target").join(name);
    let path = env::var_os(variable).map_or_else(default, PathBuf::from);
    println!("cargo::rerun-if-changed={}", path.display());
    path
}
