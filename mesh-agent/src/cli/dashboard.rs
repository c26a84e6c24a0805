//! `dashboard`: serves a page about one agent to the browser of whoever runs it, on this machine's loopback, for as long as it runs.
//!
//! The page (`page/`, built into the binary) only reads. What it asks is passed on as any other command would ask it, by `link`;
//! who may ask, and what, `gate` says.

mod files;
mod gate;
mod link;
mod open;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::gate::Gate;
use self::link::Link;
use self::open::Opened;
use self::serve::Page;
use super::output::Out;
use super::{AgentArgs, Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    /// Port on 127.0.0.1; 0 for any that is free
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    port: u16,
    /// Only print the address, don't open a browser
    #[arg(long)]
    no_open: bool,
}

pub(super) fn run(args: &Args, out: &mut Out<'_>) -> Outcome {
    if args.agent.all_nodes {
        return Err(Failure::message(Exit::Usage, "the page shows one agent").hint("say --node NODE instead"));
    }
    if files::ALL.is_empty() {
        return Err(Failure::message(Exit::Failed, "this mesh-agent was built without its page")
            .hint("run `cargo xtask build`, with npm at hand (`cargo xtask setup` installs it)"));
    }
    // Whoever can't ask the agent is told so here, as by every other command.
    let _: serde_json::Value = args.agent.client()?.get("/v1/status")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args, out))
}

async fn serve(args: &Args, out: &mut Out<'_>) -> Outcome {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = listen(args.port).await?;
    let gate = Gate::new(listener.local_addr()?.port())?;
    let url = gate.entrance();
    out.data(&format!("{url}\n"))?;
    out.note("Open this address in a browser of this machine; whoever has it may read what the agent knows. Ctrl-C ends it.")?;
    // Goes with the command.
    let _opened = if args.no_open { None } else { Opened::in_browser(&url) };
    let page = Page::new(gate, Link::new(args.agent.door()?), args.agent.words());
    tokio::select! {
        () = page.serve(listener) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(Exit::Ok)
}

async fn listen(port: u16) -> Result<TcpListener, Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("{address} can't be listened at"));
        Failure::new(Exit::Failed, error).hint("another --port, or none for any that is free")
    })
}
