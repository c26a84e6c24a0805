//! Arguments that every command to a running agent has, and `drain`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::client::Client;
use super::output::Out;
use super::{Exit, Failure, Outcome};

/// Which agent.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// State directory of the agent to ask
    #[arg(long, env = "MESH_AGENT_STATE_DIR", default_value = "/run/mesh-agent", value_name = "DIR")]
    pub state_dir: PathBuf,
}

impl AgentArgs {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.state_dir)
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Return only when the agent has ended
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, default_value_t = 60, requires = "wait", value_name = "SECONDS")]
    timeout: u64,
}

pub(super) fn drain(args: &DrainArgs, out: &mut Out<'_>) -> Outcome {
    let client = args.agent.client()?;
    let _: serde_json::Value = client.post("/v1/drain")?;
    out.note("draining: no new connections are taken, open ones may finish")?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    while args.wait && client.reachable()? {
        if Instant::now() > deadline {
            return Err(Failure::message(Exit::Failed, "the agent still runs")
                .hint("`mesh-agent get connections` shows what it waits for"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Exit::Ok)
}
