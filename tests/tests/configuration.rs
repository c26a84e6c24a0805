//! Where configuration comes from and what a change of it does: files, symbolic links, flags, environment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{
    Agent, AgentOptions, Node, Object, PodObject, ServiceObject, SliceObject, Topology, eventually,
};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, need_agent};
use nix::libc::ECONNREFUSED;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 1);

/// A client and two servers, without an agent yet.
struct Bare {
    topology: Topology,
    node: Node,
    web: Host,
    carts: [Host; 2],
    _servers: [Server; 2],
}

impl Bare {
    fn new(name: &str) -> Self {
        let topology = Topology::new(name).unwrap();
        let node = topology.node("node-a").unwrap();
        let host = |name: &str| Host::new(&topology, node.pod(name).unwrap()).unwrap();
        let (web, carts) = (host("web"), [host("cart-1"), host("cart-2")]);
        let _servers = carts.each_ref().map(|cart| echo_server(cart.listen(8080).unwrap(), cart.name()).0);
        Self { topology, node, web, carts, _servers }
    }

    /// Everything in one file, the service over one of the carts; as text.
    fn yaml(&self, cart: usize) -> String {
        let pod = |host: &Host| Object::from(PodObject::of(host, NAMESPACE).enabled(true));
        let service = ServiceObject::new(NAMESPACE, "cart").vip(VIP).port("http", 80);
        let slice = SliceObject::new(NAMESPACE, "cart", "cart-4").port("http", 8080);
        let slice = slice.pods(NAMESPACE, [&*self.carts[cart]]);
        let objects =
            [pod(&self.web), pod(&self.carts[0]), pod(&self.carts[1]), service.into(), slice.into()];
        self.topology.mesh().write("all.yaml", objects).unwrap();
        fs::read_to_string(self.topology.mesh().path().join("all.yaml")).unwrap()
    }

    fn agent(&self, options: AgentOptions, source: &Path) -> Agent {
        self.node.agent(options.source(format!("dir:{}", source.display()))).unwrap()
    }

    fn answers(&self) -> Result<String> {
        let stream = self.web.connect_within(SocketAddr::new(VIP.into(), 80), Duration::from_millis(300))?;
        Ok(Client::new(stream).get("c", "/")?.text())
    }

    fn wait_for(&self, cart: &str) {
        eventually(SOON, || {
            let text = self.answers()?;
            ensure!(text == cart, "{text}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_symlink_swap_as_of_a_mounted_config_map_is_followed() {
    let options = need_agent!();
    let bare = Bare::new("configmap");
    let mount = bare.topology.scratch().join("mount");
    fs::create_dir_all(mount.join("..v0")).unwrap();
    fs::write(mount.join("..v0/all.yaml"), bare.yaml(0)).unwrap();
    symlink("..v0", mount.join("..data")).unwrap();
    symlink("..data/all.yaml", mount.join("all.yaml")).unwrap();
    let _agent = bare.agent(options, &mount);
    bare.wait_for("cart-1");
    for (version, cart) in [(1, 1), (2, 0), (3, 1)] {
        let dir = mount.join(format!("..v{version}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("all.yaml"), bare.yaml(cart)).unwrap();
        symlink(format!("..v{version}"), mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        bare.wait_for(bare.carts[cart].name());
        fs::remove_dir_all(mount.join(format!("..v{}", version - 1))).unwrap();
    }
    bare.wait_for("cart-2");
}

#[test]
fn files_are_edited_added_and_removed_at_run_time() {
    let options = need_agent!();
    let bare = Bare::new("files");
    let dir = bare.topology.scratch().join("source");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("all.yaml"), bare.yaml(0)).unwrap();
    let agent = bare.agent(options, &dir);
    bare.wait_for("cart-1");
    // In place, not renamed over.
    fs::write(dir.join("all.yaml"), bare.yaml(1)).unwrap();
    bare.wait_for("cart-2");
    // A half-written file: what was valid last stays in force.
    fs::write(dir.join("all.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: [").unwrap();
    eventually(SOON, || {
        ensure!(agent.log().contains("all.yaml"), "no word of the broken file");
        Ok(())
    })
    .unwrap();
    bare.wait_for("cart-2");
    fs::write(dir.join("all.yaml"), bare.yaml(0)).unwrap();
    bare.wait_for("cart-1");
    fs::remove_file(dir.join("all.yaml")).unwrap();
    eventually(SOON, || {
        ensure!(bare.answers().is_err(), "still served");
        Ok(())
    })
    .unwrap();
    fs::write(dir.join("again.yml"), bare.yaml(1)).unwrap();
    bare.wait_for("cart-2");
}

#[test]
fn a_directory_that_is_not_there_yet_is_waited_for() {
    let options = need_agent!();
    let bare = Bare::new("later");
    let dir = bare.topology.scratch().join("later/mesh");
    let _agent = Agent::spawn(&bare.node, options.source(format!("dir:{}", dir.display()))).unwrap();
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("all.yaml"), bare.yaml(0)).unwrap();
    eventually(SOON * 3, || bare.answers().map(drop)).unwrap();
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let options = need_agent!();
    let scratch = Topology::new("precedence").unwrap();
    let file = scratch.scratch().join("config.yaml");
    fs::write(&file, "outboundTrafficPolicy: registryOnly\nlog: debug\n").unwrap();
    let with_file = options.flag("config", file.display().to_string());
    let with_env = with_file.clone().env("MESH_AGENT_OUTBOUND_TRAFFIC_POLICY", "allowAny");
    let with_flag = with_env.clone().flag("outbound-traffic-policy", "registryOnly");
    for (options, refused) in [(with_file, true), (with_env, false), (with_flag, true)] {
        let shop = Shop::start("precedence", options).unwrap();
        let _server = echo_server(shop.outside.listen(8080).unwrap(), "outside");
        let code = shop.web.connect(shop.outside.at(8080)).map_err(|error| error.raw_os_error()).err();
        assert_eq!(code, refused.then_some(Some(ECONNREFUSED)));
        assert!(
            shop.agent.cli(&["log", "get"]).unwrap().stdout.contains("debug"),
            "the file's other keys hold"
        );
    }
}

#[test]
fn a_configuration_file_with_an_unknown_key_is_refused_by_name() {
    let _options = need_agent!();
    let scratch = Topology::new("unknownkey").unwrap();
    let file = scratch.scratch().join("config.yaml");
    fs::write(&file, "outboundTraficPolicy: registryOnly\n").unwrap();
    let mut command = std::process::Command::new(mesh_tests::agent_binary().unwrap());
    command.arg("run").arg("--config").arg(&file);
    let output = mesh_tests::lab::Running::start(command).unwrap().finish(SOON).unwrap();
    assert_eq!(output.code, 65, "{output:?}");
    assert!(output.stderr.contains("outboundTraficPolicy"), "{output:?}");
}

#[test]
fn of_two_services_with_one_address_one_serves_and_the_other_is_warned_about() {
    let options = need_agent!();
    let bare = Bare::new("duplicate");
    let dir = bare.topology.scratch().join("source");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("all.yaml"), bare.yaml(0)).unwrap();
    let service = ServiceObject::new(NAMESPACE, "second").vip(VIP).port("http", 80);
    let slice = SliceObject::new(NAMESPACE, "second", "second-4")
        .port("http", 8080)
        .pods(NAMESPACE, [&*bare.carts[1]]);
    bare.topology.mesh().write("second.yaml", [service.into(), slice.into()]).unwrap();
    let agent = bare.agent(options, &dir);
    bare.wait_for("cart-1");
    fs::copy(bare.topology.mesh().path().join("second.yaml"), dir.join("second.yaml")).unwrap();
    eventually(SOON, || {
        let log = agent.log();
        let named = log.lines().any(|line| line.contains("shop/second") && line.contains(&VIP.to_string()));
        ensure!(named, "no warning names the second service and the address:\n{log}");
        Ok(())
    })
    .unwrap();
    for _ in 0..10 {
        assert_eq!(bare.answers().unwrap(), "cart-1");
    }
}

#[test]
fn a_rollback_is_in_force_for_requests_survives_a_restart_and_ends_with_the_next_change() {
    let options = need_agent!();
    let bare = Bare::new("rollback");
    let _other = echo_server(bare.carts[1].listen(8081).unwrap(), "other");
    let dir = bare.topology.scratch().join("source");
    fs::create_dir_all(&dir).unwrap();
    // One slice with two ports; the Service's port name says which of them is meant.
    let pod = |host: &Host| Object::from(PodObject::of(host, NAMESPACE).enabled(true));
    let slice = |cart: usize, name: &str| {
        let slice = SliceObject::new(NAMESPACE, "cart", "cart-4").port("http", 8080).port("http-other", 8081);
        let slice = slice.pods(NAMESPACE, [&*bare.carts[cart]]);
        let service = ServiceObject::new(NAMESPACE, "cart").vip(VIP).port(name, 80);
        let pods = [&bare.web, &bare.carts[0], &bare.carts[1]].map(pod);
        let objects = pods.into_iter().chain([service.into(), slice.into()]);
        bare.topology.mesh().write("all.yaml", objects).unwrap();
        fs::read_to_string(bare.topology.mesh().path().join("all.yaml")).unwrap()
    };
    let says = |text: String| {
        fs::write(dir.join(".new"), text).unwrap();
        fs::rename(dir.join(".new"), dir.join("all.yaml")).unwrap();
    };
    says(slice(1, "http"));
    let mut agent = bare.agent(options, &dir);
    bare.wait_for("cart-2");
    let first = newest(&agent);
    says(slice(1, "http-other"));
    bare.wait_for("other");
    let diff = agent.cli(&["config", "diff"]).unwrap();
    assert_eq!(diff.code, 3, "{diff:?}");
    assert!(diff.stdout.contains("+ spec.ports[http-other].port: 80"), "{}", diff.stdout);

    agent.cli(&["config", "rollback", &first.to_string()]).unwrap().success().unwrap();
    bare.wait_for("cart-2");
    shown(&agent, first);
    // Endpoints stay those of now.
    says(slice(0, "http-other"));
    bare.wait_for("cart-1");

    let before = agent.cli_json(&["config", "history"]).unwrap();
    agent.restart().unwrap();
    bare.wait_for("cart-1");
    shown(&agent, first);
    let generations = |history: &serde_json::Value| -> Vec<u64> {
        history.as_array().unwrap().iter().map(|entry| entry["generation"].as_u64().unwrap()).collect()
    };
    assert_eq!(generations(&agent.cli_json(&["config", "history"]).unwrap()), generations(&before));

    agent.cli(&["config", "rollback", "--release"]).unwrap().success().unwrap();
    says(slice(1, "http-other"));
    bare.wait_for("other");
    shown(&agent, 0);
    agent.cli(&["config", "rollback", &first.to_string()]).unwrap().success().unwrap();
    bare.wait_for("cart-2");
    let changed = slice(1, "http-other").replace("10.96.1.1", "10.96.1.2");
    says(changed);
    eventually(SOON, || {
        let status = agent.cli(&["status"])?.stdout;
        ensure!(!status.contains("rolled back"), "{status}");
        Ok(())
    })
    .unwrap();
    shown(&agent, 0);
}

#[test]
fn a_damaged_history_is_said_and_keeps_no_agent_from_starting() {
    let options = need_agent!();
    let bare = Bare::new("damaged");
    let dir = bare.topology.scratch().join("source");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("all.yaml"), bare.yaml(0)).unwrap();
    let mut agent = bare.agent(options, &dir);
    bare.wait_for("cart-1");
    let file = agent.state_dir().join("config-history.json");
    eventually(SOON, || {
        ensure!(file.exists(), "not written yet");
        Ok(())
    })
    .unwrap();
    agent.kill();
    fs::write(&file, "{\"version\": 1, \"hist").unwrap();
    agent.restart().unwrap();
    bare.wait_for("cart-1");
    assert!(agent.log().contains("config-history.json.damaged"), "{}", agent.log());
    assert_eq!(newest(&agent), 1, "numbers begin anew");
}

/// The newest generation that is kept.
fn newest(agent: &Agent) -> u64 {
    agent.cli_json(&["config", "history"]).unwrap()[0]["generation"].as_u64().unwrap()
}

/// Waits until everything that tells of a rollback tells of this one; 0 for none.
fn shown(agent: &Agent, generation: u64) {
    eventually(SOON, || {
        let now = agent.metrics()?.sum("mesh_agent_config_rollback", &[]);
        ensure!(now == generation as f64, "the metric says {now}");
        let status = agent.cli_json(&["status"])?;
        let rollback = status["config"]["rollback"]["generation"].as_u64().unwrap_or(0);
        ensure!(rollback == generation, "{status}");
        Ok(())
    })
    .unwrap();
}
