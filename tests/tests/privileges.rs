//! What the agent may do in the DaemonSet: with the chart's capabilities it captures and carries, without them it doesn't.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use mesh_tests::charts::by_helm;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{
    AgentOptions, EndpointObject, NamespaceObject, Object, PodObject, ServiceObject, SliceObject, Topology,
    eventually,
};
use mesh_tests::sockets::Host;
use mesh_tests::{SOON, need_agent};
use serde_json::json;

/// Those that the chart adds.
fn capabilities() -> Vec<String> {
    let objects = by_helm("mesh-agent", &json!({})).unwrap().unwrap();
    let container = &objects["DaemonSet mesh/mesh-agent"]["spec"]["template"]["spec"]["containers"][0];
    let added = container["securityContext"]["capabilities"]["add"].as_array().unwrap();
    added.iter().map(|name| name.as_str().unwrap().to_lowercase()).collect()
}

/// The agent as root with these and no others, now and for whatever it runs.
fn confined(options: &AgentOptions, topology: &Topology, capabilities: &[&String]) -> AgentOptions {
    let listed: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let wrapper: PathBuf = topology.scratch().join("confined");
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-all{listed} --inh-caps=-all --no-new-privs {} \"$@\"\n",
        options.binary().display()
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    AgentOptions::new(wrapper)
}

/// Captures a pod and carries a request, with these capabilities; what fails otherwise.
fn try_with(name: &str, options: &AgentOptions, capabilities: &[&String]) -> Result<()> {
    let topology = Topology::new(name)?;
    let node = topology.node("node-a")?;
    let host = |name: &str| Host::new(&topology, node.pod(name)?);
    let (web, cart) = (host("web")?, host("cart")?);
    let mut objects = vec![Object::from(NamespaceObject::new("shop").enabled())];
    objects.extend([&web, &cart].map(|host| PodObject::of(host, "shop").into()));
    topology.mesh().write("00.yaml", objects)?;
    let agent = node.agent(confined(options, &topology, capabilities))?;
    eventually(SOON, || {
        let pods = agent.cli_json(&["get", "workloads"])?;
        let captured =
            pods.as_array().into_iter().flatten().filter(|pod| pod["capture"] == "captured").count();
        ensure!(captured == 2, "captured aren't both: {pods}; {}", agent.log());
        Ok(())
    })?;
    let _server = echo_server(cart.listen(8080)?, "cart");
    let mut client = Client::new(web.connect((cart.v4(), 8080).into())?);
    client.get("cart", "/")?;
    let carried = agent.cli_json(&["get", "connections"])?;
    ensure!(carried.as_array().is_some_and(|all| !all.is_empty()), "not carried by the agent");
    Ok(())
}

#[test]
fn the_capabilities_of_the_chart_suffice_and_none_is_listed_for_nothing() {
    let options = need_agent!();
    let all = capabilities();
    // Pods of this harness run as root and name their namespaces, so that none has to be looked for in /proc.
    let here: Vec<&String> = all.iter().filter(|name| *name != "sys_ptrace").collect();
    try_with("capall", &options, &here).unwrap();
    let without = |name: &str| here.iter().filter(|other| **other != name).copied().collect::<Vec<_>>();
    let failed = format!("{:#}", try_with("capsys", &options, &without("sys_admin")).unwrap_err());
    assert!(failed.contains("Operation not permitted"), "{failed}");
    // What it includes doesn't do in its place.
    let parts = ["bpf", "net_admin", "perfmon"].map(str::to_owned);
    let failed = format!("{:#}", try_with("capparts", &options, &parts.each_ref()).unwrap_err());
    assert!(failed.contains("network namespace can't be entered"), "{failed}");
    ends_with("capends", &options, &here, "are ended").unwrap();
    // Kernels from 6.9 on take CAP_SYS_ADMIN for maps of sockets; where one doesn't, the agent doesn't start.
    match try_with("capnet", &options, &without("net_admin")) {
        Err(error) => println!("this kernel wants CAP_NET_ADMIN for more: {error:#}"),
        Ok(()) => ends_with("capstay", &options, &without("net_admin"), "can't be ended").unwrap(),
    }
}

/// What the agent says of a connection that the kernel balanced to an endpoint that is gone, with these capabilities.
fn ends_with(name: &str, options: &AgentOptions, capabilities: &[&String], said: &str) -> Result<()> {
    let topology = Topology::new(name)?;
    let node = topology.node("node-a")?;
    let host = |name: &str| Host::new(&topology, node.pod(name)?);
    let (web, db) = (host("web")?, host("db")?);
    let vip = Ipv4Addr::new(10, 96, 0, 10);
    let base = [Object::from(NamespaceObject::new("shop").enabled()), PodObject::of(&web, "shop").into()];
    topology.mesh().write("00.yaml", base)?;
    let service = ServiceObject::new("shop", "db").vip(vip).port("tcp", 5432);
    let slice = SliceObject::new("shop", "db", "db-1").port("tcp", 5432);
    let endpoint = EndpointObject::address(db.v4());
    topology.mesh().write("db.yaml", [service.clone().into(), slice.clone().endpoint(endpoint).into()])?;
    let agent = node.agent(confined(options, &topology, capabilities))?;
    let _listener = db.listen(5432)?;
    let _kept = web.connect((vip, 5432).into())?;
    topology.mesh().write("db.yaml", [Object::from(service), slice.into()])?;
    eventually(SOON, || {
        ensure!(agent.log().contains(said), "not said: {said}; {}", agent.log());
        Ok(())
    })
}

#[test]
fn what_sys_admin_includes_is_not_listed_beside_it() {
    let listed = capabilities();
    assert!(listed.iter().any(|name| name == "sys_admin"));
    // capabilities(7): since Linux 5.8 both are parts of CAP_SYS_ADMIN, which setns(2) needs.
    assert!(!listed.iter().any(|name| name == "bpf" || name == "perfmon"), "{listed:?}");
}
