//! Mutual TLS between two nodes: two agents, two Envoys, and two bare copy loops, one beside the client and one beside the
//! server, all on the proxies' core.
//!
//! Certificates are P-256 and name a SPIFFE identity, which each side of Envoy's compares, as the agents do.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mesh_agent::lab::{Agent, Node, Object, Pod, PodObject, Running, ServiceObject, SliceObject, Topology};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use crate::load::Work;
use crate::peers::{self, envoy_command, listening};
use crate::rows::{AGENT, Row};
use crate::scene::{BULK, HTTP1, NAMESPACE, PROXY_CORE, Scene, start_agent, tool};

/// What servers' certificates say beside their identity.
pub const SERVER_NAME: &str = "server.bench";
/// Two of Envoy's with HTTP/2 between them.
pub const ENVOYS: &str = "two Envoys, HTTP/2 between them";
/// The same with HTTP/1.1, a TLS connection for each that is busy.
pub const ENVOYS_HTTP1: &str = "two Envoys, HTTP/1.1 between them";
/// The same with opaque bytes, a TLS connection for each.
pub const ENVOYS_TCP: &str = "two Envoys";
/// Two bare copy loops.
pub const BARE: &str = "bare rustls copies";

/// Its service's address.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const VIP_HTTP: u16 = 80;
const VIP_TCP: u16 = 81;
const VIP_BULK: u16 = 82;
/// Where the bare copy beside the server listens, and that beside the client.
const BARE_FAR: u16 = 20041;
const BARE_NEAR: u16 = 20040;
/// Where the Envoy beside the client listens.
const ENVOY_NEAR: [u16; 4] = [20050, 20051, 20052, 20053];
/// And that beside the server.
const ENVOY_FAR: [u16; 3] = [20060, 20061, 20062];

/// The second node.
pub struct Far {
    pub agent: Agent,
    _server: Pod,
    _node: Node,
}

/// A server on a second node with an agent of its own.
pub fn build(
    topology: &Topology,
    binary: &Path,
    serve: impl Fn(&Pod) -> Result<Running>,
) -> Result<(Far, Running)> {
    let node = topology.node("node-b")?;
    let server = node.pod("far")?;
    let running = serve(&server)?;
    let service = ServiceObject::new(NAMESPACE, "far")
        .vip(VIP)
        .port("http", VIP_HTTP)
        .app_protocol("http")
        .port("tcp", VIP_TCP)
        .app_protocol("tcp")
        .port("bulk", VIP_BULK)
        .app_protocol("tcp");
    let slice =
        SliceObject::new(NAMESPACE, "far", "far-1").port("http", HTTP1).port("tcp", HTTP1).port("bulk", BULK);
    let pod = PodObject::of(&server, NAMESPACE).service_account("far");
    let objects = [Object::from(pod), service.into(), slice.pods(NAMESPACE, [&server]).into()];
    topology.mesh().write("far.yaml", objects)?;
    let agent = start_agent(&node, binary)?;
    Ok((Far { agent, _server: server, _node: node }, running))
}

/// Rows of all that can be had, with the processes that must live meanwhile; the others are told by name and reason.
pub fn rows(scene: &Scene) -> (Vec<Row>, Vec<Running>, Vec<String>) {
    let (mut rows, mut running, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(mesh) = &scene.mesh {
        let pids = [mesh.agent.pid(), mesh.far.agent.pid()];
        for (work, port) in [(Work::Mtls, VIP_HTTP), (Work::MtlsConnect, VIP_TCP), (Work::MtlsBulk, VIP_BULK)]
        {
            rows.push(Row::new(work, AGENT, &mesh.client, (VIP, port).into(), &pids));
        }
    }
    let near = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match envoys(scene) {
        Ok(pair) => {
            let pids = pair.each_ref().map(Running::pid);
            let [http2, http1, tcp, bulk] = ENVOY_NEAR;
            for (work, name, port) in [
                (Work::Mtls, ENVOYS, http2),
                (Work::Mtls, ENVOYS_HTTP1, http1),
                (Work::MtlsConnect, ENVOYS_TCP, tcp),
                (Work::MtlsBulk, ENVOYS_TCP, bulk),
            ] {
                rows.push(Row::new(work, name, &scene.client, near(port), &pids));
            }
            running.extend(pair);
        }
        Err(error) => absent.push(format!("two Envoys: {error:#}")),
    }
    match bare(scene) {
        Ok(pair) => {
            let pids = pair.each_ref().map(Running::pid);
            rows.push(Row::new(Work::MtlsBulk, BARE, &scene.client, near(BARE_NEAR), &pids));
            running.extend(pair);
        }
        Err(error) => absent.push(format!("{BARE}: {error:#}")),
    }
    (rows, running, absent)
}

/// Beside the server, then beside the client.
fn bare(scene: &Scene) -> Result<[Running; 2]> {
    let far = SocketAddr::from((scene.server.v4(), BARE_FAR)).to_string();
    let to = SocketAddr::from((scene.server.v4(), BULK)).to_string();
    let near = SocketAddr::from((Ipv4Addr::LOCALHOST, BARE_NEAR)).to_string();
    let dir = |side| certificates(scene, side).map(|dir| dir.display().to_string());
    let (server, client) = (dir(Side::Server)?, dir(Side::Client)?);
    let args = ["tls-proxy", "--accept", "--listen", &far, "--to", &to, "--certificates", &server];
    let far_side = tool(&scene.server, PROXY_CORE, &args)?;
    let args = ["tls-proxy", "--listen", &near, "--to", &far, "--certificates", &client];
    Ok([far_side, tool(&scene.client, PROXY_CORE, &args)?])
}

/// Beside the server, then beside the client.
fn envoys(scene: &Scene) -> Result<[Running; 2]> {
    let server = scene.server.v4().to_string();
    let start = |pod: &Pod, side: Side, config: &str, ports: &[u16]| {
        let certificates = certificates(scene, side)?.display().to_string();
        let config = config.replace("SERVER", &server).replace("CERTIFICATES", &certificates);
        let file = peers::write(scene, &format!("envoy-mtls-{}.yaml", side.name()), &config)?;
        listening(envoy_command(pod, &[], &file)?.start()?, ports)
    };
    Ok([
        start(&scene.server, Side::Server, include_str!("peers/envoy-mtls-server.yaml"), &ENVOY_FAR)?,
        start(&scene.client, Side::Client, include_str!("peers/envoy-mtls-client.yaml"), &ENVOY_NEAR)?,
    ])
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// The directory with the certificates of one side, both signed by one authority.
fn certificates(scene: &Scene, side: Side) -> Result<PathBuf> {
    let dir = scene.topology.scratch().join("certificates");
    if !dir.exists() {
        make_certificates(&dir).context("making certificates")?;
    }
    Ok(dir.join(side.name()))
}

fn make_certificates(dir: &Path) -> Result<()> {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Else all have one name, and every certificate counts as its own issuer.
    root.distinguished_name.push(DnType::CommonName, "root of the bench");
    let authority = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    for side in [Side::Client, Side::Server] {
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        let identity = format!("spiffe://cluster.local/ns/bench/sa/{}", side.name());
        params.subject_alt_names.push(SanType::URI(identity.try_into()?));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority)?;
        let dir = dir.join(side.name());
        fs::create_dir_all(&dir)?;
        for (name, text) in
            [("ca.pem", authority.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
        {
            fs::write(dir.join(name), text)?;
        }
    }
    Ok(())
}
