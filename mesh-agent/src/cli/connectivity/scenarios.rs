//! What has to hold between pods of a mesh, in the order in which it is tried: each judged by what the pods saw themselves.

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::scene::{Answer, PORT, Scene};

/// Requests where one says little.
const MANY: usize = 20;

/// One of them.
pub(super) struct Scenario {
    /// For machines.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// Tries it.
    pub run: fn(&Scene) -> Result<Verdict>,
}

/// What came of it, where it didn't fail.
pub(super) enum Verdict {
    /// It holds.
    Holds,
    /// There is nothing to try it with.
    NotTried(String),
}

/// All of them.
pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "captured", what: "pods of a labelled namespace are captured", run: captured },
    Scenario { name: "same-node", what: "a pod reaches another one of its node", run: same_node },
    Scenario { name: "other-node", what: "a pod reaches one of another node", run: other_node },
    Scenario { name: "service", what: "a service address leads to all of its pods", run: service },
    Scenario {
        name: "stranger",
        what: "a pod outside of the mesh reaches one that takes plain text",
        run: stranger,
    },
    Scenario { name: "strict", what: "STRICT lets in the mesh and nobody else", run: strict },
    Scenario { name: "denied", what: "an AuthorizationPolicy denies one path and no other", run: denied },
    Scenario { name: "route", what: "an HTTPRoute sends requests elsewhere", run: route },
];

fn captured(scene: &Scene) -> Result<Verdict> {
    scene.until(|| {
        for pod in scene.enrolled() {
            ensure!(
                scene.is_captured(pod)?,
                "pod {pod} isn't: see its events, and `mesh-agent status --all-nodes`"
            );
        }
        Ok(Verdict::Holds)
    })
}

fn same_node(scene: &Scene) -> Result<Verdict> {
    reaches(scene, 0)
}

fn other_node(scene: &Scene) -> Result<Verdict> {
    if scene.servers.len() < 2 {
        return Ok(Verdict::NotTried("agents run on one node only".to_owned()));
    }
    reaches(scene, 1)
}

/// The client reaches a server by its own address, which sees the client's.
fn reaches(scene: &Scene, server: usize) -> Result<Verdict> {
    let server = &scene.servers[server];
    scene.until(|| match scene.ask("client", server.ip, PORT, "/")? {
        Answer::Ok { name, peer } => {
            ensure!(name == server.name, "{name} answered in place of {}", server.name);
            let own = scene.address_of("client")?;
            ensure!(peer == own, "{} was called by {peer}, it was told, and not by {own}", server.name);
            Ok(Verdict::Holds)
        }
        Answer::Failed(what) => bail!("{} wasn't reached: {what}", server.name),
    })
}

fn service(scene: &Scene) -> Result<Verdict> {
    let vip = scene.vip("echo")?;
    scene.until(|| {
        let mut names = Vec::new();
        for _ in 0..MANY {
            match scene.ask("client", vip, PORT, "/")? {
                Answer::Ok { name, .. } => names.push(name),
                Answer::Failed(what) => bail!("{vip} wasn't reached: {what}"),
            }
        }
        for server in &scene.servers {
            ensure!(names.contains(&server.name), "none of {MANY} requests went to {}", server.name);
        }
        Ok(Verdict::Holds)
    })
}

fn stranger(scene: &Scene) -> Result<Verdict> {
    scene.until(|| match scene.ask("stranger", scene.servers[0].ip, PORT, "/")? {
        Answer::Ok { .. } => Ok(Verdict::Holds),
        Answer::Failed(what) => bail!("it didn't: {what}"),
    })
}

fn strict(scene: &Scene) -> Result<Verdict> {
    let spec = json!({"selector": {"matchLabels": {"app": "echo"}}, "mtls": {"mode": "STRICT"}});
    let Some(_policy) = scene.security("PeerAuthentication", &spec)? else {
        return Ok(Verdict::NotTried("PeerAuthentication (security.istio.io/v1) isn't installed".to_owned()));
    };
    scene.until(|| {
        for server in &scene.servers {
            if let Answer::Ok { .. } = scene.ask("stranger", server.ip, PORT, "/")? {
                bail!("{} let the stranger in", server.name);
            }
            if let Answer::Failed(what) = scene.ask("client", server.ip, PORT, "/")? {
                bail!("{} refused the client: {what}", server.name);
            }
        }
        Ok(Verdict::Holds)
    })
}

fn denied(scene: &Scene) -> Result<Verdict> {
    let spec = json!({
        "selector": {"matchLabels": {"app": "echo"}},
        "action": "DENY",
        "rules": [{"to": [{"operation": {"paths": ["/denied"]}}]}],
    });
    let Some(_policy) = scene.security("AuthorizationPolicy", &spec)? else {
        return Ok(Verdict::NotTried(
            "AuthorizationPolicy (security.istio.io/v1) isn't installed".to_owned(),
        ));
    };
    scene.until(|| {
        for server in &scene.servers {
            match scene.ask("client", server.ip, PORT, "/denied")? {
                Answer::Failed(what) if what == "status-403" => {}
                Answer::Failed(what) => bail!("{} answered {what}, and not 403", server.name),
                Answer::Ok { .. } => bail!("{} was reached", server.name),
            }
            if let Answer::Failed(what) = scene.ask("client", server.ip, PORT, "/")? {
                bail!("{} answered another path with {what}", server.name);
            }
        }
        Ok(Verdict::Holds)
    })
}

fn route(scene: &Scene) -> Result<Verdict> {
    let Some(_route) = scene.route("echo", "other")? else {
        return Ok(Verdict::NotTried("HTTPRoute (gateway.networking.k8s.io/v1) isn't installed".to_owned()));
    };
    let vip = scene.vip("echo")?;
    scene.until(|| {
        for _ in 0..MANY {
            match scene.ask("client", vip, PORT, "/")? {
                Answer::Ok { name, .. } => ensure!(name == "other", "{name} answered in place of other"),
                Answer::Failed(what) => bail!("{vip} wasn't reached: {what}"),
            }
        }
        Ok(Verdict::Holds)
    })
}
