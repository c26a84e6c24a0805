//! The mesh-agent binary: daemon and command line in one.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_agent::cli::main()
}
