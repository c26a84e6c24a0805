//! The command line: parses, calls, prints. Data goes to stdout, everything else to stderr, and the exit code says
//! how it ended ([`Exit`]).
//!
//! Commands other than `run` and `demo` talk to the agent through its admin socket with the types of `admin::api`; to that of a
//! node of a cluster through the API server.

mod agent;
mod all_nodes;
mod analyze;
mod authz;
mod bpf;
mod bugreport;
mod check;
mod client;
mod cluster;
mod config;
mod connectivity;
mod controller;
mod dashboard;
mod demo;
mod describe;
mod edges;
mod error;
mod exit;
mod get;
mod live;
mod log;
mod manifests;
mod metrics;
mod observe;
mod output;
mod pipe;
mod probe;
mod route;
mod routes;
mod run;
mod stat;
mod status;
mod style;
mod table;
mod top;
mod version;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

pub use agent::AgentArgs;
pub use error::Failure;
pub use exit::Exit;
use output::Out;
use style::{ColorChoice, Style};

use crate::controller::ControllerArgs;
use crate::demo::{ClientArgs, DemoArgs, ServerArgs};
use crate::settings::RunArgs;

/// What a command comes to.
pub type Outcome = Result<Exit, Failure>;

/// The service mesh's node agent, and the command line that asks it questions.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, max_term_width = 110, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 fine, 1 failed, 3 the answer is no, 64 usage, 65 bad input, 69 agent \
                        unreachable, 77 no permission, 79 issues found.")]
struct Cli {
    /// Colours: on a terminal unless NO_COLOR is set, always, or never
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of a node until it is told to stop
    Run(Box<RunArgs>),
    /// Sign certificates for the agents of a cluster, for the pods of their own nodes
    Controller(Box<ControllerArgs>),
    /// Show interception, balancing and fail modes on this machine: no cluster, one command
    Demo(DemoArgs),
    #[command(hide = true)]
    Pipe(pipe::Args),
    #[command(hide = true)]
    DemoServer(ServerArgs),
    #[command(hide = true)]
    DemoClient(ClientArgs),
    /// Check what the agent needs: kernel, cgroup2, bpffs, capabilities, ports
    Check(check::Args),
    /// Try a mesh out that is installed in a cluster
    #[command(subcommand)]
    Connectivity(connectivity::Command),
    /// Show the mesh as a page in a browser of this machine: graph, charts, traffic
    Dashboard(dashboard::Args),
    /// Show how the agent is
    Status(status::Args),
    /// List workloads, services, routes, policies, endpoints or connections
    #[command(subcommand)]
    Get(get::Command),
    /// Show one thing on one page
    #[command(subcommand)]
    Describe(describe::Command),
    /// Show requests and connections as they end, and the last that failed
    Observe(observe::Args),
    /// Show requests of a pod or service as they end, with their headers
    Tap(observe::TapArgs),
    /// Success, rate and latency of services or workloads over the last minute
    Stat(Box<stat::StatArgs>),
    /// Who calls whom, and whether in mutual TLS; as a table or a picture
    Edges(Box<edges::EdgesArgs>),
    /// Success, rate and latency by rule of a route
    Routes(Box<routes::RoutesArgs>),
    /// The same three on a terminal, once a second
    Top(Box<top::TopArgs>),
    /// Ask what routes do
    #[command(subcommand)]
    Route(route::Command),
    /// Ask what policies let in
    #[command(subcommand)]
    Authz(authz::Command),
    /// List all that is wrong with the configuration, by severity; exit code 79 if anything is
    Analyze(analyze::Args),
    /// List families of metrics by their series, and the labels that make them
    Metrics(metrics::MetricsArgs),
    /// Pack what others need to look into a problem, without secrets, into a file
    Bugreport(bugreport::BugreportArgs),
    /// Show what runs in the kernel
    #[command(subcommand)]
    Bpf(bpf::Command),
    /// Show, check, compare or roll back configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Show or change the log's filter
    #[command(subcommand)]
    Log(log::Command),
    #[command(hide = true)]
    Probe(probe::Args),
    /// Print what the Helm charts install as plain manifests, for kubectl apply -f -
    Manifests(manifests::Args),
    /// Make the agent drain and end, as SIGTERM does
    Drain(agent::DrainArgs),
    /// Print a shell's completion script
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Print the versions of this command line and of the agent
    Version(version::Args),
}

impl Command {
    /// True of those that put together what nodes say, and of the page, which is of one and says so.
    fn asks_all_nodes_itself(&self) -> bool {
        matches!(
            self,
            Self::Observe(_)
                | Self::Tap(_)
                | Self::Stat(_)
                | Self::Edges(_)
                | Self::Routes(_)
                | Self::Top(_)
                | Self::Bugreport(_)
                | Self::Dashboard(_)
        )
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Not locked: the daemon's threads write there too.
    run(std::env::args_os(), &mut io::stdout(), &mut io::stderr()).into()
}

/// Runs a command line, printing to `stdout` and `stderr`. The tests' way in.
pub fn run(args: impl IntoIterator<Item = OsString>, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    let parsed = Cli::command().try_get_matches_from(&args);
    let (matches, cli) =
        match parsed.and_then(|matches| Ok((matches.clone(), Cli::from_arg_matches(&matches)?))) {
            Ok(parsed) => parsed,
            Err(error) => return usage(&error, stdout, stderr),
        };
    let style = Style::detect(cli.color);
    let mut out = Out::new(stdout, stderr, style);
    let outcome = if all_nodes::is_wanted(&args) && !cli.command.asks_all_nodes_itself() {
        all_nodes::run(&args, &all_nodes::cluster_of(&matches), &mut out, |args, said, out| {
            run(args, said, out.notes())
        })
    } else {
        dispatch(cli.command, &mut out)
    };
    match outcome {
        Ok(exit) => exit,
        // The reader went away (`| head`): nobody is left to tell.
        Err(failure) if failure.is_broken_pipe() => Exit::Ok,
        Err(failure) => failure.print(stderr, style),
    }
}

fn dispatch(command: Command, out: &mut Out<'_>) -> Outcome {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Controller(args) => controller::run(&args),
        Command::Demo(args) => demo::run(args, out),
        Command::Pipe(args) => pipe::run(&args),
        Command::DemoServer(args) => demo::demonstrated(crate::demo::server(args)),
        Command::DemoClient(args) => demo::demonstrated(crate::demo::client(&args)),
        Command::Check(args) => check::run(&args, out),
        Command::Connectivity(command) => connectivity::run(&command, out),
        Command::Dashboard(args) => dashboard::run(&args, out),
        Command::Status(args) => status::run(&args, out),
        Command::Get(command) => get::run(&command, out),
        Command::Describe(command) => describe::run(&command, out),
        Command::Observe(args) => observe::run(&args, out),
        Command::Tap(args) => observe::tap(&args, out),
        Command::Stat(args) => stat::run(&args, out),
        Command::Edges(args) => edges::run(&args, out),
        Command::Routes(args) => routes::run(&args, out),
        Command::Top(args) => top::run(&args, out),
        Command::Route(command) => route::run(&command, out),
        Command::Authz(command) => authz::run(&command, out),
        Command::Analyze(args) => analyze::run(&args, out),
        Command::Metrics(args) => metrics::run(&args, out),
        Command::Bugreport(args) => bugreport::run(&args, out),
        Command::Bpf(command) => bpf::run(&command, out),
        Command::Config(command) => config::run(&command, out),
        Command::Log(command) => log::run(&command, out),
        Command::Probe(args) => probe::run(&args),
        Command::Manifests(args) => manifests::run(&args, out),
        Command::Drain(args) => agent::drain(&args, out),
        Command::Completion { shell } => completion(shell, out),
        Command::Version(args) => version::run(&args, out),
    }
}

fn completion(shell: Shell, out: &mut Out<'_>) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mesh-agent", &mut script);
    out.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// Help and version are answers; everything else that clap has to say is a usage error.
fn usage(error: &clap::Error, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Exit {
    let text = error.render();
    // Nowhere is left to report that this can't be written.
    if error.use_stderr() {
        let _ = write!(stderr, "{text}");
        Exit::Usage
    } else {
        let _ = write!(stdout, "{text}");
        Exit::Ok
    }
}

#[cfg(test)]
mod tests;
