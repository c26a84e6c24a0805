//! What routes of other services cost a request: the same load with and without ten thousand of them, in turn.

use anyhow::{Context, Result};

use crate::load::Work;
use crate::policies::{self, OTHER, OTHER_ROUTES, PORT, VIP_POLICIES};
use crate::rows::{AGENT, Row};
use crate::scene::Scene;

const FILE: &str = "others.yaml";

/// Name of the row with the other services' routes.
pub const WITH: &str = "mesh-agent, 10,000 routes of other services";

/// Both rows, measured.
pub fn measure(scene: &Scene, rounds: u32, seconds: u32) -> Result<Vec<Row>> {
    let mesh = scene.mesh.as_ref().context("needs the agent")?;
    let scratch = scene.topology.scratch();
    let row = |name: &str| {
        Row::new(Work::Others, name, &mesh.client, (VIP_POLICIES, PORT).into(), &[mesh.agent.pid()])
    };
    let (mut without, mut with) = (row(AGENT), row(WITH));
    let others = policies::others();
    // What a change itself costs, its history included, is over after the warm-up.
    for _ in 0..rounds {
        without.warm_up(scratch)?;
        without.measure(seconds, scratch)?;
        scene.topology.mesh().write(FILE, others.iter().cloned())?;
        mesh.wait_for_routes(OTHER, OTHER_ROUTES)?;
        with.warm_up(scratch)?;
        with.measure(seconds, scratch)?;
        scene.topology.mesh().remove(FILE)?;
        mesh.wait_for_routes(OTHER, 0)?;
    }
    Ok(vec![without, with])
}
