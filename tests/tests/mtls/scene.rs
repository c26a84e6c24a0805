//! Two nodes whose agents sign with an authority that the tests have too, so that they can forge what they like under it.

use std::net::TcpStream;
use std::sync::OnceLock;

use anyhow::ensure;
use mesh_tests::lab::{Agent, Object, PodObject, eventually};
use mesh_tests::nodes::Nodes;
use mesh_tests::pki::MeshAuthority;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, agent_options};

/// The nodes, and who signs there.
pub struct Scene {
    pub nodes: Nodes,
    pub root: MeshAuthority,
}

/// The one that the tests of this suite share.
pub fn scene() -> Option<&'static Scene> {
    static SCENE: OnceLock<Option<Scene>> = OnceLock::new();
    let start = || {
        let root = MeshAuthority::named("mesh").expect("a root");
        let nodes = Nodes::under("wire", &agent_options()?, &root).expect("two nodes");
        Some(Scene { nodes, root })
    };
    SCENE.get_or_init(start).as_ref()
}

/// The scene, or out of the test.
macro_rules! need_scene {
    () => {
        match crate::scene::scene() {
            Some(scene) => scene,
            None => return,
        }
    };
}
pub(crate) use need_scene;

/// The identity of an account of the shop.
pub fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}")
}

impl Scene {
    /// A pod of its own for a test, of an account of its name, on the first (0) or second node, captured when this returns.
    pub fn pod(&self, node: usize, name: &str) -> Host {
        let pod = Host::new(&self.nodes.topology, self.nodes.nodes[node].pod(name).unwrap()).unwrap();
        let object = PodObject::of(&pod, NAMESPACE).service_account(name);
        self.nodes.topology.mesh().write(&format!("pod-{name}.yaml"), [Object::from(object)]).unwrap();
        let agent = [&self.nodes.near, &self.nodes.far][node];
        eventually(SOON, || {
            let pod = agent.cli_json(&["describe", "pod", &format!("{NAMESPACE}/{name}")])?;
            ensure!(pod["pod"]["capture"] == "captured", "{pod}");
            Ok(())
        })
        .unwrap();
        for agent in [&self.nodes.near, &self.nodes.far] {
            knows(agent, name);
        }
        pod
    }
}

/// Waits until an agent has heard of a pod.
pub fn knows(agent: &Agent, pod: &str) {
    eventually(SOON, || {
        let listed = agent.cli(&["get", "workloads", "-o", "name"])?.success()?.stdout;
        ensure!(listed.lines().any(|line| line.ends_with(&format!("/{pod}"))), "{listed}");
        Ok(())
    })
    .unwrap();
}

/// Waits for a line of an agent's log that has all of these.
pub fn log_has(agent: &Agent, texts: &[&str]) {
    eventually(SOON, || {
        let log = agent.log();
        ensure!(
            log.lines().any(|line| texts.iter().all(|text| line.contains(text))),
            "{texts:?} in no line of:\n{log}"
        );
        Ok(())
    })
    .unwrap();
}

/// Waits until a counter of handshakes is above `before`.
pub fn counted(agent: &Agent, direction: &str, result: &str, before: f64) {
    agent
        .wait_metrics(SOON, |metrics| {
            let labels = [("direction", direction), ("result", result)];
            let now = metrics.sum("mesh_agent_mesh_handshakes_total", &labels);
            ensure!(now > before, "{direction} {result}: {now}");
            Ok(())
        })
        .unwrap();
}

/// Everything until the connection ends, however it does; fails if it doesn't.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    use std::io::{ErrorKind, Read};
    let mut got = Vec::new();
    if let Err(error) = stream.read_to_end(&mut got) {
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "it stays open");
    }
    got
}

/// Puts an object of Istio's security API in force for the pod of this name: `spec` without its selector.
pub fn guard(scene: &Scene, kind: &str, pod: &str, spec: &str) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {pod}, namespace: {NAMESPACE}}}\n\
         spec: {{selector: {{matchLabels: {{app: {pod}}}}}{spec}}}\n"
    );
    scene.nodes.topology.mesh().write_text(&format!("{kind}-{pod}.yaml"), &text).unwrap();
    let object = format!("{kind} {NAMESPACE}/{pod}");
    for agent in [&scene.nodes.near, &scene.nodes.far] {
        eventually(SOON, || {
            let history = agent.cli(&["config", "history", "-o", "json"])?.success()?.stdout;
            ensure!(history.contains(&object), "{object} isn't in force");
            Ok(())
        })
        .unwrap();
    }
}
