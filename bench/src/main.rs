//! The bench: builds pods on one machine, measures the agent and its peers doing the same work, writes tables and plots.
//!
//! `run` is what `cargo xtask bench` calls; the other commands are what runs inside the pods: a server, two bare
//! proxies, a pair over TLS, a dialler, a puller, a holder of connections, a watcher of configuration changes.

mod authorization;
mod changes;
mod cpu;
mod kube;
mod load;
mod memory;
mod mtls;
mod observed;
mod others;
mod peers;
mod plot;
mod policies;
mod report;
mod rows;
mod run;
mod scene;
mod services;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measure mesh-agent against bare proxies and its peers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure and write tables and plots
    Run(run::Args),
    /// In a pod: the server that every row talks to
    #[command(hide = true)]
    Serve(tools::serve::Args),
    /// In a pod: a bare hyper reverse proxy with a connection pool
    #[command(hide = true)]
    HttpProxy(tools::http_proxy::Args),
    /// In a pod: a bare tokio copy loop
    #[command(hide = true)]
    TcpProxy(tools::tcp_proxy::Args),
    /// In a pod: the bare tokio copy loop behind the agent's kernel programs
    #[command(hide = true)]
    HookedProxy(tools::hooked_proxy::Args),
    /// In a pod: new connections, as many as there is time for
    #[command(hide = true)]
    Dial(tools::dial::Args),
    /// In a pod: open connections that do nothing
    #[command(hide = true)]
    Hold(tools::hold::Args),
    /// In a pod: one connection, as many bytes as it carries
    #[command(hide = true)]
    Pull(tools::pull::Args),
    /// In a pod: one side of a bare copy loop over mutual TLS
    #[command(hide = true)]
    TlsProxy(tools::tls_proxy::Args),
    /// In a pod: change one endpoint and see when it is in force
    #[command(hide = true)]
    Change(tools::change::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => tools::serve::run(&args),
        Command::HttpProxy(args) => tools::http_proxy::run(&args),
        Command::TcpProxy(args) => tools::tcp_proxy::run(&args),
        Command::HookedProxy(args) => tools::hooked_proxy::run(&args),
        Command::Dial(args) => tools::dial::run(&args),
        Command::Hold(args) => tools::hold::run(&args),
        Command::Pull(args) => tools::pull::run(&args),
        Command::TlsProxy(args) => tools::tls_proxy::run(&args),
        Command::Change(args) => tools::change::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
