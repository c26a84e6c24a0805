//! `cargo xtask`: the one entry point to set up, build, try, test, measure and check the project.
//!
//! Each command is a file of its own. Nothing here is part of the agent, and nothing but this crate is needed to run
//! it: it has to work on a machine that has only a Rust tool chain.

mod bench;
mod bpf;
mod build;
mod ci;
mod demo;
mod fuzz;
mod page;
mod setup;
mod sh;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, try, test, measure and check mesh-agent.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install the BPF tool chain and the programs that tests need
    ///
    /// Takes what is there: a Debian compiler with a ready `core` for BPF, or a nightly with rust-src. On Debian as
    /// root it installs what is missing; elsewhere it says in one sentence what is missing and how to get it. Does
    /// nothing, quickly, when everything is there. Logs are in target/xtask/. Where both compilers are, the environment
    /// variable MESH_BPF_COMPILER=debian or nightly chooses.
    Setup(setup::Args),
    /// Build the kernel programs, the page and the agent
    ///
    /// The kernel programs go to target/bpf/mesh-ebpf.o, the page to target/page, from where the agent's build script takes them
    /// in. With MESH_EBPF_OBJECT or MESH_PAGE set, that object or page is used and none is built. Without npm the agent is built
    /// without its page. MESH_BPF_ARCH names the architecture that they will run on
    /// (x86_64, aarch64) where it isn't this one.
    Build(build::Args),
    /// Set up, build, and run `mesh-agent demo`
    Demo(demo::Args),
    /// Set up, build, and run every test: unit tests and the suites on a real kernel
    ///
    /// The suites under tests/ need root; without it, or without kernel features, they are skipped, counted and say
    /// why. In CI (environment CI set) such a skip is a failure.
    Test(test::Args),
    /// Measure the agent against bare proxies, Envoy, nginx and haproxy on this machine
    ///
    /// Builds a topology of network namespaces, pins processes to cores, runs every row several times in turn and
    /// reports medians: a table on stdout, docs/benchmarks/README.md and SVG plots beside it.
    Bench(bench::Args),
    /// Run the fuzz targets under fuzz/, each for a while
    ///
    /// With the compiler that is there, no nightly and no sanitizer: cargo-fuzz is installed if it is missing. What a
    /// target fails with is left under fuzz/artifacts/. The agent's unit tests replay the corpora that are kept.
    Fuzz(fuzz::Args),
    /// All gates: fmt, clippy, tidy, cargo-deny, docs, tests
    Ci(ci::Args),
    /// House rules that no other tool checks: lints inherited, file sizes, documentation rows, forbidden words
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Tidy(args) => tidy::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
