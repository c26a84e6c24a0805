//! Who is captured, from when on, and what becomes of connections when that changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Result, ensure};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{NamespaceObject, Object, PodObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, need_agent, need_shop, shared_shop};

shared_shop!("enrolment");

/// A pod that no object speaks of yet.
fn stranger(shop: &Shop, name: &str) -> Host {
    Host::new(&shop.topology, shop.node.pod(name).unwrap()).unwrap()
}

/// True if the agent carried a request from this pod, by what its access log says of a path of its own.
fn is_captured(shop: &Shop, pod: &Host, to: std::net::SocketAddr) -> Result<bool> {
    let path = format!("/probe-{}-{}", pod.name(), fresh());
    ensure!(Client::new(pod.connect(to)?).get("probe", &path)?.status() == 200);
    // What is carried is logged when it is done; a marker request of `web` comes after it on the same log.
    let marker = format!("/marker-{}", fresh());
    ensure!(Client::new(shop.web.connect(to)?).get("probe", &marker)?.status() == 200);
    shop.log_shows(&marker, |line| line["path"] == *marker)?;
    let source = format!("{NAMESPACE}/{}", pod.name());
    Ok(shop
        .agent
        .access_log()
        .iter()
        .any(|l| l["path"] == *path && l["source_workload"] == *source && l["reporter"] == "source"))
}

fn fresh() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn wait_captured(shop: &Shop, pod: &Host, to: std::net::SocketAddr, expected: bool) {
    eventually(SOON, || {
        let captured = is_captured(shop, pod, to)?;
        ensure!(captured == expected, "captured: {captured}");
        Ok(())
    })
    .unwrap();
}

fn write(shop: &Shop, file: &str, objects: impl IntoIterator<Item = Object>) {
    shop.topology.mesh().write(file, objects).unwrap();
}

#[test]
fn the_pods_label_beats_its_namespaces() {
    let shop = need_shop!();
    let service = shop.http("labels", "http", 1).unwrap();
    let (refused, asked) = (stranger(shop, "label-none"), stranger(shop, "label-only"));
    write(shop, "label-none.yaml", [PodObject::of(&refused, NAMESPACE).enabled(false).into()]);
    write(
        shop,
        "label-only.yaml",
        [NamespaceObject::new("unlabelled").into(), PodObject::of(&asked, "unlabelled").enabled(true).into()],
    );
    // Not captured, a service address leads nowhere; captured, to an endpoint.
    eventually(SOON, || shop.reaches(&asked, &service)).unwrap();
    let direct = service.backends[0].host.at(service.target);
    assert!(!is_captured(shop, &refused, direct).unwrap());
}

#[test]
fn a_pod_without_any_label_is_left_alone() {
    let shop = need_shop!();
    let service = shop.http("nolabel", "http", 1).unwrap();
    let pod = stranger(shop, "nolabel");
    write(shop, "nolabel.yaml", [NamespaceObject::new("plain").into(), PodObject::of(&pod, "plain").into()]);
    let direct = service.backends[0].host.at(service.target);
    assert!(!is_captured(shop, &pod, direct).unwrap());
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn alive(stream: &mut TcpStream) {
    stream.write_all(b"alive?").unwrap();
    let mut back = [0; 6];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"alive?");
}

#[test]
fn enrolling_and_unenrolling_break_no_established_connection() {
    let shop = need_shop!();
    let service = shop.http("runtime", "http", 1).unwrap();
    let direct = service.backends[0].host.at(service.target);
    let pod = stranger(shop, "runtime");
    let port = shop.port();
    let _far = Server::new(shop.outside.listen(port).unwrap(), |stream, _| echo(stream));
    let _own = Server::new(pod.listen(port).unwrap(), |stream, _| echo(stream));
    let mut before_out = pod.connect(shop.outside.at(port)).unwrap();
    let mut before_in = shop.outside.connect(pod.at(port)).unwrap();
    alive(&mut before_out);
    alive(&mut before_in);

    write(shop, "runtime.yaml", [PodObject::of(&pod, NAMESPACE).into()]);
    wait_captured(shop, &pod, direct, true);
    alive(&mut before_out);
    alive(&mut before_in);
    let mut during_out = pod.connect(shop.outside.at(port)).unwrap();
    let mut during_in = shop.outside.connect(pod.at(port)).unwrap();
    alive(&mut during_out);
    alive(&mut during_in);

    write(shop, "runtime.yaml", [PodObject::of(&pod, NAMESPACE).enabled(false).into()]);
    wait_captured(shop, &pod, direct, false);
    for stream in [&mut before_out, &mut before_in, &mut during_out, &mut during_in] {
        alive(stream);
    }
    let mut after = shop.outside.connect(pod.at(port)).unwrap();
    alive(&mut after);
}

#[test]
fn a_namespaces_label_enrols_its_pods_when_it_changes() {
    let shop = need_shop!();
    let service = shop.http("nslabel", "http", 1).unwrap();
    let pod = stranger(shop, "nslabel");
    let object: Object = PodObject::of(&pod, "later").into();
    write(shop, "later.yaml", [NamespaceObject::new("later").into(), object.clone()]);
    let reach = || {
        Client::new(pod.connect_within(service.at(), std::time::Duration::from_millis(300))?).get("l", "/")
    };
    assert!(reach().is_err(), "a service address leads nowhere yet");
    write(shop, "later.yaml", [NamespaceObject::new("later").enabled().into(), object.clone()]);
    eventually(SOON, || Ok(reach().map(drop)?)).unwrap();
    write(shop, "later.yaml", [NamespaceObject::new("later").into(), object]);
    eventually(SOON, || {
        ensure!(reach().is_err(), "still captured");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_agent_listens_inside_the_pod_on_loopback_only() {
    let shop = need_shop!();
    let output = shop.web.command("ss").args(["-Hltn"]).run(PATIENCE).unwrap().success().unwrap();
    let listening: Vec<&str> =
        output.stdout.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    for address in ["127.0.0.1:15001", "[::1]:15001", "127.0.0.1:15006", "[::1]:15006"] {
        assert!(listening.contains(&address), "{address} is not in {listening:?}");
    }
    assert!(
        listening.iter().all(|address| address.starts_with("127.0.0.1:") || address.starts_with("[::1]:")),
        "{listening:?}"
    );
}

#[test]
fn a_namespace_that_cannot_be_entered_is_reported_by_name_and_tried_again() {
    let options = need_agent!();
    let shop = Shop::start("retry", options).unwrap();
    let service = shop.http("retry", "http", 1).unwrap();
    let pod = stranger(&shop, "latecomer");
    let path = shop.topology.scratch().join("netns-link");
    let object =
        PodObject::of(&pod, NAMESPACE).annotation("mesh-agent.dev/netns", &path.display().to_string());
    write(&shop, "latecomer.yaml", [object.into()]);
    eventually(SOON, || {
        let listed = shop.agent.cli_json(&["get", "workloads"])?.to_string();
        ensure!(listed.contains("latecomer"), "{listed}");
        let log = shop.agent.log();
        ensure!(
            log.lines().any(|l| l.contains("latecomer") && l.contains("netns-link")),
            "no word of it in the log:\n{log}"
        );
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "the others are served");
    std::os::unix::fs::symlink(pod.netns().path(), &path).unwrap();
    eventually(PATIENCE * 2, || shop.reaches(&pod, &service)).unwrap();
}

#[test]
fn a_namespace_that_disappears_is_cleaned_up() {
    let options = need_agent!();
    let shop = Shop::start("gone", options).unwrap();
    let service = shop.http("gone", "http", 1).unwrap();
    let links = || std::fs::read_dir(shop.agent.bpffs_dir().join("links/netns")).unwrap().count();
    let (pod, before) = (stranger(&shop, "shortlived"), links());
    write(&shop, "shortlived.yaml", [PodObject::of(&pod, NAMESPACE).into()]);
    eventually(SOON, || shop.reaches(&pod, &service)).unwrap();
    assert_eq!(links(), before + 1);
    pod.netns().delete();
    drop(pod);
    shop.topology.mesh().remove("shortlived.yaml").unwrap();
    eventually(SOON, || {
        ensure!(links() == before, "{} links of namespaces, {before} before", links());
        let listed = shop.agent.cli_json(&["get", "workloads"])?.to_string();
        ensure!(!listed.contains("shortlived"), "{listed}");
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
}

#[test]
fn a_namespace_that_disappears_while_its_pod_object_stays_is_let_go() {
    let options = need_agent!();
    let shop = Shop::start("vanished", options).unwrap();
    let service = shop.http("vanished", "http", 1).unwrap();
    let pod = stranger(&shop, "vanished");
    write(&shop, "vanished.yaml", [PodObject::of(&pod, NAMESPACE).into()]);
    eventually(SOON, || shop.reaches(&pod, &service)).unwrap();
    pod.netns().delete();
    drop(pod);
    // The namespace itself ends when nothing holds it any more; its end of the cable goes with it.
    let fabric = shop.topology.fabric().name().to_owned();
    let count = || {
        let output = std::process::Command::new("ip")
            .args(["-n", &fabric, "-o", "link", "show", "master", "br0"])
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).lines().count()
    };
    eventually(SOON, || {
        // web, batch, three carts, outside.
        ensure!(count() == 6, "{} cables", count());
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
}

#[test]
fn a_pod_that_comes_back_in_another_namespace_is_captured_again() {
    let shop = need_shop!();
    let service = shop.http("reborn", "http", 1).unwrap();
    for _ in 0..3 {
        let pod = stranger(shop, "reborn");
        write(shop, "reborn.yaml", [PodObject::of(&pod, NAMESPACE).into()]);
        eventually(SOON, || shop.reaches(&pod, &service)).unwrap();
    }
}

#[test]
fn host_network_pods_are_refused_by_name() {
    let shop = need_shop!();
    let pod = stranger(shop, "hosted");
    write(shop, "hosted.yaml", [PodObject::of(&pod, NAMESPACE).host_network().into()]);
    eventually(SOON, || {
        let listed = shop.agent.cli(&["get", "workloads", "-o", "wide"])?.success()?.stdout;
        let line = listed.lines().find(|line| line.contains("hosted")).unwrap_or_default().to_lowercase();
        ensure!(line.contains("refused") || line.contains("host network"), "{listed}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_pod_of_another_node_is_known_but_not_captured() {
    let shop = need_shop!();
    let service = shop.http("othernode", "http", 1).unwrap();
    let node = shop.topology.node("node-b").unwrap();
    let pod = Host::new(&shop.topology, node.pod("far").unwrap()).unwrap();
    // No agent is there, which its object says.
    write(shop, "far.yaml", [PodObject::of(&pod, NAMESPACE).enabled(false).into()]);
    let port = shop.port();
    let (_server, _) = echo_server(pod.listen(port).unwrap(), "far");
    let direct = service.backends[0].host.at(service.target);
    // Known: the agent names it as a destination.
    eventually(SOON, || {
        let listed = shop.agent.cli_json(&["get", "workloads"])?.to_string();
        ensure!(listed.contains("\"far\""), "{listed}");
        Ok(())
    })
    .unwrap();
    assert_eq!(
        Client::new(shop.web.connect(pod.at(port)).unwrap()).get("f", "/to-far").unwrap().text(),
        "far"
    );
    shop.log_shows("far", |line| line["destination_workload"] == "shop/far").unwrap();
    let listening = pod.command("ss").args(["-Hltn"]).run(PATIENCE).unwrap().stdout;
    assert!(!listening.contains(":15001"), "{listening}");
    assert_eq!(Client::new(pod.connect(direct).unwrap()).get("f", "/").unwrap().status(), 200);
}

#[test]
fn a_finished_pod_drops_out() {
    let shop = need_shop!();
    let service = shop.http("finished", "http", 1).unwrap();
    let direct = service.backends[0].host.at(service.target);
    let pod = stranger(shop, "finished");
    write(shop, "finished.yaml", [PodObject::of(&pod, NAMESPACE).into()]);
    wait_captured(shop, &pod, direct, true);
    write(shop, "finished.yaml", [PodObject::of(&pod, NAMESPACE).phase("Succeeded").into()]);
    wait_captured(shop, &pod, direct, false);
}

#[test]
fn every_pod_known_at_start_is_captured_when_the_agent_says_ready() {
    let options = need_agent!();
    let mut shop = Shop::start("ready", options).unwrap();
    let service = shop.http("ready", "http", 1).unwrap();
    for _ in 0..3 {
        shop.agent.restart().unwrap();
        let captured = shop.reason("captured");
        assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
        shop.reason_grows("captured", captured, 1.0).unwrap();
    }
}

#[test]
fn a_namespace_shared_by_two_pod_objects_harms_nobody() {
    let shop = need_shop!();
    let service = shop.http("shared", "http", 1).unwrap();
    let pod = stranger(shop, "shared");
    let second = PodObject::of(&pod, "elsewhere");
    write(shop, "shared.yaml", [PodObject::of(&pod, NAMESPACE).into(), second.into()]);
    eventually(SOON, || shop.reaches(&pod, &service)).unwrap();
    shop.topology.mesh().remove("shared.yaml").unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
}

#[test]
fn a_changed_address_is_captured_in_place_and_the_old_one_let_go() {
    let options = need_agent!();
    let shop = Shop::start("moving", options).unwrap();
    let pod = stranger(&shop, "moving");
    let port = shop.port();
    let _own = Server::new(pod.listen(port).unwrap(), |stream, _| echo(stream));
    let _far = Server::new(shop.outside.listen(port).unwrap(), |stream, _| echo(stream));
    let (old, new) = (pod.v4(), std::net::Ipv4Addr::new(10, 77, 200, 1));
    let with_addresses = |addresses: &[std::net::Ipv4Addr]| {
        let mut object = Object::from(PodObject::of(&pod, NAMESPACE));
        object.0["status"]["podIP"] = addresses[0].to_string().into();
        object.0["status"]["podIPs"] =
            addresses.iter().map(|ip| serde_json::json!({"ip": ip.to_string()})).collect();
        write(&shop, "moving.yaml", [object]);
    };
    let dial = |ip: std::net::Ipv4Addr| shop.outside.connect((ip, port).into());
    let refused = |ip| {
        let error = dial(ip).err().ok_or_else(|| anyhow::anyhow!("{ip} was reached"))?;
        ensure!(error.raw_os_error() == Some(nix::libc::ECONNREFUSED), "{ip}: {error}");
        Ok(())
    };
    let captured = |ip| {
        let before = shop.reason("inbound_captured");
        alive(&mut dial(ip)?);
        ensure!(shop.reason("inbound_captured") > before, "{ip} isn't captured");
        Ok(())
    };

    with_addresses(&[old]);
    eventually(SOON, || captured(old)).unwrap();
    let mut established = [dial(old).unwrap(), pod.connect(shop.outside.at(port)).unwrap()];
    // An address that its object doesn't name is nobody's.
    pod.netns().ip(&format!("addr add {new}/16 dev eth0\n")).unwrap();
    refused(new).unwrap();

    with_addresses(&[old, new]);
    eventually(SOON, || captured(new)).unwrap();
    captured(old).unwrap();
    established.iter_mut().for_each(alive);

    with_addresses(&[new]);
    eventually(SOON, || refused(old)).unwrap();
    captured(new).unwrap();
    established.iter_mut().for_each(alive);
    let log = shop.agent.log();
    let entered =
        log.lines().filter(|line| line.contains("enrolled") && line.contains("shop/moving")).count();
    assert!(entered == 1 && !log.contains("left pod=shop/moving"), "entered {entered} times:\n{log}");
}

#[test]
fn no_pod_is_let_go_while_one_that_is_wanted_waits() {
    let options = need_agent!();
    let mut shop = Shop::start("wanted", options).unwrap();
    let service = shop.http("wanted", "http", 1).unwrap();
    let port = shop.port();
    let _far = echo_server(shop.outside.listen(port).unwrap(), "outside");
    let get = |pod: &Host| -> Result<u16> {
        let mut client = Client::new(pod.connect(shop.outside.at(port))?);
        Ok(client.get("w", "/")?.status())
    };
    let (wanted, unwanted) = (stranger(&shop, "wanted"), stranger(&shop, "unwanted"));
    let path = shop.topology.scratch().join("wanted-netns");
    let link = || std::os::unix::fs::symlink(wanted.netns().path(), &path).unwrap();
    link();
    let object =
        PodObject::of(&wanted, NAMESPACE).annotation("mesh-agent.dev/netns", &path.display().to_string());
    write(&shop, "wanted.yaml", [object.into()]);
    write(&shop, "unwanted.yaml", [PodObject::of(&unwanted, NAMESPACE).into()]);
    for pod in [&wanted, &unwanted] {
        eventually(SOON, || shop.reaches(pod, &service)).unwrap();
    }
    // While the agent is away one pod's namespace can't be found any more, and the other isn't wanted any more.
    shop.agent.kill();
    std::fs::remove_file(&path).unwrap();
    shop.topology.mesh().remove("unwanted.yaml").unwrap();
    shop.agent.restart().unwrap();
    // Both fail closed: the agent can't know which of those that the kernel captures is the one it can't enter.
    for pod in [&wanted, &unwanted] {
        let error = get(pod).unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{}: {error:#}", pod.name());
    }
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "the others are served");
    link();
    eventually(PATIENCE * 2, || shop.reaches(&wanted, &service)).unwrap();
    let captured = shop.reason("captured");
    assert_eq!(get(&wanted).unwrap(), 200);
    shop.reason_grows("captured", captured, 1.0).unwrap();
    // Tidied up every quarter of a minute.
    eventually(PATIENCE * 3, || get(&unwanted)).unwrap();
}

#[test]
fn a_pod_that_uses_the_agents_port_waits_by_name_until_the_port_is_free() {
    let options = need_agent!();
    let shop = Shop::start("squatter", options).unwrap();
    let service = shop.http("squatter", "http", 1).unwrap();
    let states = |pending: f64| {
        shop.metrics_show(|metrics| {
            let of = |state| metrics.sum("mesh_agent_enrolled_pods", &[("state", state)]);
            ensure!(of("pending") == pending, "{} pending, {} captured", of("pending"), of("captured"));
            Ok(())
        })
    };
    for (i, port) in [15001, 15006, 15008].into_iter().enumerate() {
        let name = format!("squatter-{i}");
        let pod = stranger(&shop, &name);
        let own = Server::new(pod.listen(port).unwrap(), |stream, _| echo(stream));
        write(&shop, "squatter.yaml", [PodObject::of(&pod, NAMESPACE).into()]);
        states(1.0).unwrap();
        for command in [&["status"][..], &["get", "workloads", "-o", "wide"]] {
            let shown = shop.agent.cli(command).unwrap().stdout;
            let line = shown.lines().find(|line| line.contains(&name)).unwrap_or_default();
            for part in ["pending", "15001, 15006 and 15008", "does the pod use them itself?"] {
                assert!(line.contains(part), "{part:?} is missing in {command:?}:\n{shown}");
            }
        }
        let log = shop.agent.log();
        let told = |line: &&str| line.contains(&name) && line.contains("15001, 15006 and 15008");
        assert!(log.lines().any(|line| told(&line)), "no word of it in the log:\n{log}");
        // Its own connections go as if there were no mesh.
        alive(&mut shop.outside.connect(pod.at(port)).unwrap());
        drop(own);
        eventually(PATIENCE * 2, || shop.reaches(&pod, &service)).unwrap();
        states(0.0).unwrap();
    }
}
