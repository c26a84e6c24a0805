//! An agent that takes over from a killed one, while the source isn't all there: whom it lets go, and when it is ready.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{PodObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, need_agent};
use nix::libc::ECONNREFUSED;

/// Beside a shop whose pods fail closed: one pod more of each fail mode, in a file of its own, and a host outside that a
/// service stands for too.
struct Scene {
    shop: Shop,
    closed: Host,
    open: Host,
    service: Service,
    outside: SocketAddr,
    _server: Server,
}

impl Scene {
    fn new(name: &str) -> Option<Self> {
        let shop = Shop::start(name, mesh_tests::agent_options()?).unwrap();
        let port = shop.port();
        let (server, _) = echo_server(shop.outside.listen(port).unwrap(), "outside");
        let service = shop.expose("away", "http", port, &[&shop.outside]).unwrap();
        let pod = |mode: &str| Host::new(&shop.topology, shop.node.pod(mode).unwrap()).unwrap();
        let (closed, open) = (pod("closed"), pod("open"));
        let outside = shop.outside.at(port);
        let scene = Self { shop, closed, open, service, outside, _server: server };
        scene.write_pods();
        for pod in [&scene.closed, &scene.open] {
            eventually(SOON, || scene.shop.reaches(pod, &scene.service)).unwrap();
        }
        Some(scene)
    }

    fn write_pods(&self) {
        for pod in [&self.closed, &self.open] {
            let object = PodObject::of(pod, NAMESPACE).fail_mode(pod.name());
            self.shop.topology.mesh().write(&format!("{}.yaml", pod.name()), [object.into()]).unwrap();
        }
    }

    /// Pods that nobody serves: closed ones are refused everywhere, the open one goes direct and by service.
    fn follow_their_fail_modes(&self, closed: &[&Host]) -> Result<()> {
        for to in [self.outside, self.service.at()] {
            for pod in closed {
                refused(pod, to)?;
            }
            served(&self.open, to)?;
        }
        Ok(())
    }
}

fn get(from: &Host, to: SocketAddr) -> Result<u16> {
    let stream = from.connect_within(to, Duration::from_secs(3))?;
    Ok(Client::new(stream).get("t", "/")?.status())
}

fn served(from: &Host, to: SocketAddr) -> Result<()> {
    let status = get(from, to)?;
    ensure!(status == 200, "{to}: {status}");
    Ok(())
}

fn refused(from: &Host, to: SocketAddr) -> Result<()> {
    let error = from.connect(to).err().ok_or_else(|| anyhow::anyhow!("{} reached {to}", from.name()))?;
    ensure!(error.raw_os_error() == Some(ECONNREFUSED), "{} to {to}: {error}", from.name());
    Ok(())
}

#[test]
fn without_its_source_directory_a_new_agent_lets_nobody_go() {
    let Some(mut scene) = Scene::new("sourceless") else { return };
    let mesh = scene.shop.topology.mesh().path().to_owned();
    let aside = mesh.with_extension("aside");
    scene.shop.agent.kill();
    std::fs::rename(&mesh, &aside).unwrap();
    scene.shop.agent.start_again().unwrap();
    eventually(PATIENCE, || {
        let (status, body) = scene.shop.agent.get("/readyz")?;
        ensure!(status == 503 && body.contains("configuration"), "{status}: {body}");
        Ok(())
    })
    .unwrap();
    // Over some of the control loop's rounds.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        scene.follow_their_fail_modes(&[&scene.shop.web, &scene.closed]).unwrap();
    }
    assert_eq!(scene.shop.agent.get("/readyz").unwrap().0, 503);
    assert!(!scene.shop.agent.log().lines().any(|line| line == "ready"), "{}", scene.shop.log_tail());
    std::fs::rename(&aside, &mesh).unwrap();
    scene.shop.agent.wait_ready().unwrap();
    let captured = scene.shop.reason("captured");
    for pod in [&scene.shop.web, &scene.closed, &scene.open] {
        served(pod, scene.outside).unwrap();
        served(pod, scene.service.at()).unwrap();
    }
    scene.shop.reason_grows("captured", captured, 6.0).unwrap();
}

#[test]
fn a_broken_file_lets_nobody_go_while_the_rest_is_served() {
    let Some(mut scene) = Scene::new("halfsource") else { return };
    scene.shop.agent.kill();
    let mesh = scene.shop.topology.mesh();
    for file in ["closed.yaml", "open.yaml"] {
        mesh.write_text(file, "kind: [unclosed\n").unwrap();
    }
    scene.shop.agent.restart().unwrap();
    served(&scene.shop.web, scene.service.at()).unwrap();
    // Over some of the control loop's rounds.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        scene.follow_their_fail_modes(&[&scene.closed]).unwrap();
    }
    scene.write_pods();
    for pod in [&scene.closed, &scene.open] {
        let captured = scene.shop.reason("captured");
        eventually(SOON, || {
            served(pod, scene.service.at())?;
            ensure!(scene.shop.reason("captured") > captured, "{} isn't captured", pod.name());
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_broken_file_that_goes_lets_its_pods_go() {
    let Some(mut scene) = Scene::new("mended") else { return };
    scene.shop.agent.kill();
    let mesh = scene.shop.topology.mesh();
    mesh.write_text("closed.yaml", "kind: [unclosed\n").unwrap();
    scene.shop.agent.restart().unwrap();
    refused(&scene.closed, scene.outside).unwrap();
    scene.shop.topology.mesh().remove("closed.yaml").unwrap();
    eventually(SOON, || served(&scene.closed, scene.outside)).unwrap();
}

#[test]
fn a_source_directory_that_is_empty_is_one_without_pods() {
    let Some(mut scene) = Scene::new("emptied") else { return };
    scene.shop.agent.kill();
    let mesh = scene.shop.topology.mesh().path().to_owned();
    std::fs::rename(&mesh, mesh.with_extension("aside")).unwrap();
    std::fs::create_dir(&mesh).unwrap();
    scene.shop.agent.restart().unwrap();
    let captured = scene.shop.reason("captured");
    for pod in [&scene.shop.web, &scene.closed, &scene.open] {
        eventually(SOON, || served(pod, scene.outside)).unwrap();
    }
    assert_eq!(scene.shop.reason("captured"), captured, "nobody is captured any more");
}

#[test]
fn a_first_agent_is_ready_without_its_source_directory() {
    let options = need_agent!();
    let topology = mesh_tests::lab::Topology::new("first").unwrap();
    let missing = topology.scratch().join("missing");
    let agent = topology.node("node-a").unwrap().agent(options.source(format!("dir:{}", missing.display())));
    assert_eq!(agent.unwrap().get("/readyz").unwrap().0, 200);
}
