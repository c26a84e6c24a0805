//! Services that need nothing of the agent: balanced at connect(2) and sendmsg(2), by a real kernel, for captured pods and,
//! where asked for, for everybody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::lab::{EndpointObject, Object, ServiceObject, SliceObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, agent_options, need_agent};
use nix::libc::{ECONNABORTED, EHOSTUNREACH};
use serde_json::json;
use socket2::Domain;

/// A shop with servers that aren't in the mesh, and a client that isn't.
struct World {
    shop: Shop,
    databases: [Host; 3],
    stranger: Host,
}

impl World {
    fn start(name: &str, kernel_services: &str) -> Option<Self> {
        let options = agent_options()?.flag("kernel-services", kernel_services);
        let shop = Shop::start(name, options).unwrap();
        let host = |name: &str| Host::new(&shop.topology, shop.node.pod(name).unwrap()).unwrap();
        let databases = [host("db-1"), host("db-2"), host("db-3")];
        let stranger = host("cron");
        Some(Self { shop, databases, stranger })
    }

    /// Servers that say their name and then echo, on these databases and one port; and a service over them.
    fn tcp(&self, name: &str, count: usize) -> (Service, Vec<Server>) {
        self.tcp_with(name, count, |service| service)
    }

    fn tcp_with(
        &self,
        name: &str,
        count: usize,
        with: impl Fn(ServiceObject) -> ServiceObject,
    ) -> (Service, Vec<Server>) {
        let target = self.shop.port();
        let hosts = &self.databases[..count];
        let servers = hosts.iter().map(|host| named(host, target)).collect();
        let service = self.shop.expose_with(name, "tcp-db", target, &references(hosts), with).unwrap();
        (service, servers)
    }

    /// A service's one UDP port, 53, over these hosts.
    fn udp(
        &self,
        name: &str,
        target: u16,
        hosts: &[Host],
        with: impl Fn(ServiceObject) -> ServiceObject,
    ) -> Service {
        let (v4, v6) = self.shop.vips();
        let service = Service { name: name.to_owned(), port_name: "dns".to_owned(), target, v4, v6 };
        self.write_udp(&service, hosts, with);
        self.shop.wait_known(name).unwrap();
        service
    }

    fn write_udp(&self, service: &Service, hosts: &[Host], with: impl Fn(ServiceObject) -> ServiceObject) {
        let Service { name, target, v4, v6, .. } = service;
        let object = with(ServiceObject::new(NAMESPACE, name).vip(*v4).vip(*v6).udp_port("dns", 53));
        let slices = [false, true].map(|is_v6| {
            let slice = SliceObject::new(NAMESPACE, name, &format!("{name}-{is_v6}"));
            let slice = if is_v6 { slice.v6() } else { slice }.udp_port("dns", *target);
            Object::from(slice.pods(NAMESPACE, hosts.iter().map(|host| &**host)))
        });
        let [four, six] = slices;
        self.shop.topology.mesh().write(&format!("svc-{name}.yaml"), [object.into(), four, six]).unwrap();
    }

    fn entries(&self, map: &str) -> u64 {
        let rows = self.shop.agent.cli_json(&["bpf", "maps"]).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == map).unwrap();
        row["entries"].as_u64().unwrap()
    }
}

fn references(hosts: &[Host]) -> Vec<&Host> {
    hosts.iter().collect()
}

fn named(host: &Host, port: u16) -> Server {
    let name = host.name().to_owned();
    Server::new(host.listen(port).unwrap(), move |mut stream, _| {
        let _ = stream.write_all(name.as_bytes());
        let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    })
}

/// Who answers, on a connection that stays open.
fn dial(host: &Host, to: SocketAddr) -> io::Result<(TcpStream, String)> {
    let mut stream = host.connect(to)?;
    let mut name = [0; 4];
    stream.read_exact(&mut name)?;
    Ok((stream, String::from_utf8_lossy(&name).into_owned()))
}

fn who(host: &Host, to: SocketAddr) -> String {
    dial(host, to).unwrap().1
}

/// Answers each datagram with its name, until the test ends.
fn udp_server(host: &Host, port: u16) {
    let socket = host.udp(Domain::IPV6).unwrap();
    let socket = socket2::Socket::from(socket);
    socket.set_only_v6(false).unwrap();
    socket.set_read_timeout(None).unwrap();
    socket.bind(&SocketAddr::from(([0_u16; 8], port)).into()).unwrap();
    let (socket, name) = (UdpSocket::from(socket), host.name().to_owned());
    std::thread::spawn(move || {
        let mut buf = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buf) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

/// Sends a datagram and says who answered, and from where.
fn ask(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, SocketAddr)> {
    socket.send_to(b"?", to)?;
    let mut buf = [0; 64];
    let (len, from) = socket.recv_from(&mut buf)?;
    Ok((String::from_utf8_lossy(&buf[..len]).into_owned(), from))
}

fn udp_at(service: &Service, v6: bool) -> SocketAddr {
    let ip: IpAddr = if v6 { service.v6.into() } else { service.v4.into() };
    SocketAddr::new(ip, 53)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn what_needs_no_agent_goes_straight_to_an_endpoint() {
    let Some(world) = World::start("ksplain", "enrolled") else { return };
    let shop = &world.shop;
    let (service, servers) = world.tcp("plain", 3);
    let before = (shop.reason("captured"), shop.reason("kernel_balanced"));
    let mut met = BTreeSet::new();
    for i in 0..30 {
        // IPv6 too: there are IPv4 endpoints alone, which its sockets reach by their mapped form.
        let to = if i % 3 == 0 { service.at6() } else { service.at() };
        let (stream, name) = dial(&shop.web, to).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to, "getpeername");
        met.insert(name);
    }
    assert_eq!(met.len(), 3, "{met:?}");
    // The servers see the client itself: nobody stood between.
    let own = shop.web.addresses();
    assert!(servers.iter().flat_map(Server::peers).all(|peer| own.contains(&peer.ip().to_canonical())));
    shop.reason_grows("kernel_balanced", before.1, 30.0).unwrap();
    assert_eq!(shop.reason("captured"), before.0);
    // Whoever isn't captured isn't served.
    let refused = world.stranger.connect_within(service.at(), Duration::from_millis(300));
    assert!(refused.is_err(), "a pod that isn't captured reached a service of the mesh");
}

#[test]
fn what_comes_to_need_the_agent_changes_path_for_new_connections() {
    let Some(world) = World::start("kspath", "enrolled") else { return };
    let shop = &world.shop;
    let (service, _servers) = world.tcp("path", 1);
    let path_of = || -> Result<String> {
        let rows = shop.agent.cli_json(&["get", "services"])?;
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "path"));
        Ok(row.context("no row")?["ports"][0]["path"].to_string())
    };
    assert_eq!(path_of().unwrap(), r#""kernel""#);
    let (mut kept, _) = dial(&shop.web, service.at()).unwrap();
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
        "metadata": {"name": "path", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "path", "port": 80}],
            "rules": [{"backendRefs": [{"name": "path", "port": 80}]}],
        },
    });
    let grows_within = |reason: &str| {
        let begun = Instant::now();
        loop {
            let before = shop.reason(reason);
            who(&shop.web, service.at());
            if shop.reason(reason) > before {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "{reason} doesn't grow");
        }
    };
    shop.topology.mesh().write("route.yaml", [Object(route)]).unwrap();
    let there = grows_within("captured");
    assert_eq!(path_of().unwrap(), r#""agent: route""#);
    shop.topology.mesh().remove("route.yaml").unwrap();
    let back = grows_within("kernel_balanced");
    println!("through the agent after {there:?}, past it again after {back:?}");
    // A change of path leaves what is established alone.
    kept.write_all(b"ping").unwrap();
    kept.read_exact(&mut [0; 4]).unwrap();
    // An endpoint that is in the mesh is a reason too.
    let slice = SliceObject::new(NAMESPACE, "path", "path-4").port("tcp-db", service.target);
    let both = slice.pods(NAMESPACE, [&*world.databases[0], &*shop.carts[0]]);
    shop.rewrite_endpoints(&service, both).unwrap();
    eventually(SOON, || {
        let path = path_of()?;
        ensure!(path == r#""agent: mesh endpoints""#, "{path}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn only_ready_endpoints_are_chosen_and_terminating_ones_as_the_last_resort() {
    let Some(world) = World::start("ksready", "enrolled") else { return };
    let shop = &world.shop;
    let (service, _servers) = world.tcp("ready", 3);
    let endpoint = |host: &Host, ready: bool, terminating: bool| {
        EndpointObject::of(host, NAMESPACE, false).conditions(ready, ready || terminating, terminating)
    };
    let with = |conditions: [(bool, bool); 3]| {
        let slice = SliceObject::new(NAMESPACE, "ready", "ready-4").port("tcp-db", service.target);
        let hosts = world.databases.iter().zip(conditions);
        hosts.fold(slice, |slice, (host, (ready, terminating))| {
            slice.endpoint(endpoint(host, ready, terminating))
        })
    };
    let all_go_to = |name: &str| {
        eventually(SOON, || {
            let met: BTreeSet<_> = (0..12).map(|_| who(&shop.web, service.at())).collect();
            ensure!(met == BTreeSet::from([name.to_owned()]), "{met:?}");
            Ok(())
        })
        .unwrap();
    };
    shop.rewrite_endpoints(&service, with([(true, false), (false, true), (false, false)])).unwrap();
    all_go_to("db-1");
    // One that terminates is better than none; one that is neither ready nor serving isn't.
    shop.rewrite_endpoints(&service, with([(false, false), (false, true), (false, false)])).unwrap();
    all_go_to("db-2");
    shop.rewrite_endpoints(&service, with([(false, false); 3])).unwrap();
    eventually(SOON, || {
        let refused = errno(shop.web.connect(service.at()));
        ensure!(refused == Some(EHOSTUNREACH), "{refused:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_client_keeps_its_endpoint_where_the_service_asks_for_it() {
    let Some(world) = World::start("ksaffinity", "all") else { return };
    let shop = &world.shop;
    let (service, _servers) =
        world.tcp_with("sticky", 3, |service| service.client_ip_affinity().affinity_timeout(2));
    let own = |host: &Host| -> String {
        let met: BTreeSet<_> = (0..12).map(|_| who(host, service.at())).collect();
        assert_eq!(met.len(), 1, "{met:?}");
        met.into_iter().next().unwrap()
    };
    let first = own(&shop.web);
    // Other pods have their own; each keeps it.
    for host in [&shop.batch, &world.stranger] {
        own(host);
    }
    assert_eq!(world.entries("AFFINITY_V1"), 3);
    // Its endpoint goes: it gets another one, and keeps that.
    let left: Vec<&Host> = world.databases.iter().filter(|host| host.name() != first).collect();
    let slice = SliceObject::new(NAMESPACE, "sticky", "sticky-4").port("tcp-db", service.target);
    let (v4, v6) = (service.v4, service.v6);
    let object = ServiceObject::new(NAMESPACE, "sticky").vip(v4).vip(v6).port("tcp-db", 80);
    let object = object.client_ip_affinity().affinity_timeout(2);
    let write = |slice: SliceObject| {
        shop.topology.mesh().write("svc-sticky.yaml", [object.clone().into(), slice.into()]).unwrap();
    };
    write(slice.clone().pods(NAMESPACE, left.iter().map(|host| &***host)));
    eventually(SOON, || {
        ensure!(who(&shop.web, service.at()) != first, "still {first}");
        Ok(())
    })
    .unwrap();
    let second = own(&shop.web);
    // One that comes takes nobody away.
    write(slice.pods(NAMESPACE, world.databases.iter().map(|host| &**host)));
    eventually(SOON, || {
        let dump = shop.agent.cli(&["get", "endpoints"])?.success()?.stdout;
        ensure!(
            dump.matches("sticky").count() >= 1 && dump.contains(&world.databases[0].v4().to_string()),
            "{dump}"
        );
        Ok(())
    })
    .unwrap();
    assert_eq!(own(&shop.web), second);
    // Quiet for longer than its time-out, a client may go anywhere: sooner or later it does.
    eventually(PATIENCE * 2, || {
        // The Service's time-out, and a little more: being quiet is what is asked for.
        std::thread::sleep(Duration::from_millis(2100));
        ensure!(who(&shop.web, service.at()) != second, "{second} again");
        Ok(())
    })
    .unwrap();
}

#[test]
fn datagrams_to_a_service_come_back_from_it() {
    let Some(world) = World::start("ksudp", "enrolled") else { return };
    let shop = &world.shop;
    let target = shop.port();
    world.databases.iter().for_each(|host| udp_server(host, target));
    let service = world.udp("dns", target, &world.databases, |service| service);
    let mut met = BTreeSet::new();
    for v6 in [false, true] {
        let (domain, to) = (if v6 { Domain::IPV6 } else { Domain::IPV4 }, udp_at(&service, v6));
        for _ in 0..10 {
            let socket = shop.web.udp(domain).unwrap();
            let (name, from) = ask(&socket, to).unwrap();
            assert_eq!(from, to, "the answer's source");
            // A socket keeps its endpoint.
            assert_eq!(ask(&socket, to).unwrap(), (name.clone(), to));
            met.insert(name);
            let connected = shop.web.udp(domain).unwrap();
            connected.connect(to).unwrap();
            assert_eq!(connected.peer_addr().unwrap(), to);
            connected.send(b"?").unwrap();
            let mut buf = [0; 64];
            let (_, from) = connected.recv_from(&mut buf).unwrap();
            assert_eq!(from, to, "of a connected socket");
        }
    }
    assert_eq!(met.len(), 3, "{met:?}");
    // An IPv6 socket and a mapped address.
    let mapped = socket2::Socket::from(shop.web.udp(Domain::IPV6).unwrap());
    mapped.set_only_v6(false).unwrap();
    let mapped = UdpSocket::from(mapped);
    let to = SocketAddr::new(service.v4.to_ipv6_mapped().into(), 53);
    assert_eq!(ask(&mapped, to).unwrap().1, to);
    drop(mapped);
    // Nothing is left of sockets that are closed.
    eventually(SOON, || {
        let left = world.entries("UDP_V1");
        ensure!(left == 0, "{left} entries are left");
        Ok(())
    })
    .unwrap();
    // What is no service's is left alone, and so is who isn't captured.
    let direct = shop.web.udp(Domain::IPV4).unwrap();
    let plain = world.databases[0].at(target);
    assert_eq!(ask(&direct, plain).unwrap(), ("db-1".to_owned(), plain));
    let stranger = world.stranger.udp(Domain::IPV4).unwrap();
    stranger.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(ask(&stranger, udp_at(&service, false)).is_err());
}

#[test]
fn a_udp_socket_keeps_its_endpoint_while_it_is_listed_and_gets_another_after() {
    let Some(world) = World::start("ksudpmove", "enrolled") else { return };
    let shop = &world.shop;
    let target = shop.port();
    world.databases.iter().for_each(|host| udp_server(host, target));
    let service = world.udp("moving", target, &world.databases[..2], |service| service);
    let to = udp_at(&service, false);
    let socket = shop.web.udp(Domain::IPV4).unwrap();
    let (first, _) = ask(&socket, to).unwrap();
    world.write_udp(&service, &world.databases, |service| service);
    let listed = |count: usize| {
        eventually(SOON, || {
            let fresh =
                || ask(&shop.web.udp(Domain::IPV4)?, to).map(|answer| answer.0).map_err(anyhow::Error::from);
            let met: BTreeSet<String> = (0..40).map(|_| fresh()).collect::<Result<_>>()?;
            ensure!(met.len() == count, "{met:?}");
            Ok(())
        })
        .unwrap();
    };
    listed(3);
    assert_eq!(ask(&socket, to).unwrap().0, first, "another one came");
    let left: Vec<Host> = world.databases.iter().filter(|host| host.name() != first).cloned().collect();
    world.write_udp(&service, &left, |service| service);
    listed(2);
    let (second, from) = ask(&socket, to).unwrap();
    assert!(second != first && from == to, "{second} from {from}");
    // Nobody: the application is told.
    world.write_udp(&service, &[], |service| service);
    eventually(SOON, || {
        let refused = errno(socket.send_to(b"?", to));
        ensure!(refused == Some(EHOSTUNREACH), "{refused:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn with_all_everybody_of_the_node_reaches_services_whatever_they_speak() {
    let Some(world) = World::start("ksall", "all") else { return };
    let shop = &world.shop;
    let http = shop.http("spoken", "http", 2).unwrap();
    let (plain, _servers) = world.tcp("everybody", 2);
    let before = shop.reason("kernel_balanced_other");
    let (stream, _) = dial(&world.stranger, plain.at()).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), plain.at());
    shop.reaches(&world.stranger, &http).unwrap();
    shop.reason_grows("kernel_balanced_other", before, 2.0).unwrap();
    let target = shop.port();
    udp_server(&world.databases[0], target);
    let dns = world.udp("dns", target, &world.databases[..1], |service| service);
    let to = udp_at(&dns, false);
    assert_eq!(ask(&world.stranger.udp(Domain::IPV4).unwrap(), to).unwrap(), ("db-1".to_owned(), to));
    // Requests of captured pods still pass the agent.
    let before = shop.reason("captured");
    shop.reaches(&shop.web, &http).unwrap();
    shop.reason_grows("captured", before, 1.0).unwrap();
    let empty = shop.bare("nobody", "http").unwrap();
    assert_eq!(errno(world.stranger.connect(empty.at())), Some(EHOSTUNREACH));
    let outside = world.stranger.connect(world.databases[0].at(plain.target));
    assert!(outside.is_ok(), "what is no service's is left alone: {outside:?}");
}

#[test]
fn without_an_agent_services_are_balanced_on_for_who_is_not_captured() {
    let Some(mut world) = World::start("ksaway", "all") else { return };
    let (service, _servers) = world.tcp("away", 2);
    who(&world.stranger, service.at());
    let (mut kept, _) = dial(&world.shop.web, service.at()).unwrap();
    world.shop.agent.kill();
    let shop = &world.shop;
    // A captured pod follows its fail mode, closed here; what is established lives on.
    eventually(SOON, || {
        ensure!(shop.web.connect(service.at()).is_err(), "a captured pod is served");
        Ok(())
    })
    .unwrap();
    kept.write_all(b"ping").unwrap();
    kept.read_exact(&mut [0; 4]).unwrap();
    let met: BTreeSet<_> = (0..20).map(|_| who(&world.stranger, service.at())).collect();
    assert_eq!(met.len(), 2, "{met:?}");
}

#[test]
fn off_the_agent_carries_everything_and_udp_is_left_alone() {
    let Some(world) = World::start("ksoff", "off") else { return };
    let shop = &world.shop;
    let (service, _servers) = world.tcp("carried", 1);
    let before = (shop.reason("captured"), shop.reason("kernel_balanced"));
    who(&shop.web, service.at());
    shop.reason_grows("captured", before.0, 1.0).unwrap();
    assert_eq!(shop.reason("kernel_balanced"), before.1);
    let target = shop.port();
    udp_server(&world.databases[0], target);
    let dns = world.udp("dns", target, &world.databases[..1], |service| service);
    let socket = shop.web.udp(Domain::IPV4).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(ask(&socket, udp_at(&dns, false)).is_err());
}

#[test]
fn connections_to_an_endpoint_that_is_gone_are_ended_and_no_others() {
    let _ = need_agent!();
    for mode in ["enrolled", "all"] {
        let world = World::start(&format!("ksgone{mode}"), mode).unwrap();
        let shop = &world.shop;
        let (service, _servers) = world.tcp("gone", 2);
        let clients: Vec<&Host> =
            if mode == "all" { vec![&shop.web, &world.stranger] } else { vec![&shop.web] };
        let dialled: Vec<(TcpStream, String)> =
            clients.iter().flat_map(|host| (0..12).map(|_| dial(host, service.at()).unwrap())).collect();
        let to_first = |name: &str| name == "db-1";
        assert!(
            dialled.iter().any(|(_, name)| to_first(name)) && dialled.iter().any(|(_, name)| !to_first(name))
        );
        // Dialled by its own address: whoever did so knows what it does.
        let (mut own, _) = dial(&world.stranger, world.databases[0].at(service.target)).unwrap();
        let slice = SliceObject::new(NAMESPACE, "gone", "gone-4").port("tcp-db", service.target);
        // Terminating: it may finish.
        let terminating =
            EndpointObject::of(&world.databases[0], NAMESPACE, false).conditions(false, true, true);
        let second = EndpointObject::of(&world.databases[1], NAMESPACE, false);
        shop.rewrite_endpoints(&service, slice.clone().endpoint(terminating).endpoint(second.clone()))
            .unwrap();
        eventually(SOON, || {
            let met: BTreeSet<_> = (0..12).map(|_| who(&shop.web, service.at())).collect();
            ensure!(met.len() == 1, "{met:?}");
            Ok(())
        })
        .unwrap();
        for (stream, _) in &dialled {
            echoes(stream).unwrap();
        }
        shop.rewrite_endpoints(&service, slice.endpoint(second)).unwrap();
        for (stream, name) in &dialled {
            if to_first(name) {
                let mut stream = stream.try_clone().unwrap();
                let read = stream.read(&mut [0]);
                let raw = read.as_ref().err().and_then(io::Error::raw_os_error);
                assert_eq!(raw, Some(ECONNABORTED), "{mode}: {read:?}; {}", shop.log_tail());
            } else {
                echoes(stream).unwrap();
            }
        }
        own.write_all(b"ping").unwrap();
        own.read_exact(&mut [0; 4]).unwrap();
        let ended = dialled.iter().filter(|(_, name)| to_first(name)).count();
        shop.metrics_show(|metrics| {
            let closed = metrics.sum("mesh_agent_balanced_connections_closed_total", &[]);
            ensure!(closed >= ended as f64, "{closed} of {ended}");
            Ok(())
        })
        .unwrap();
    }
}

fn echoes(stream: &TcpStream) -> Result<()> {
    let mut stream = stream.try_clone()?;
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"ping");
    Ok(())
}

#[test]
fn an_agent_that_is_replaced_leaves_balanced_sockets_as_they_were() {
    let Some(mut world) = World::start("ksreplace", "enrolled") else { return };
    let (service, _servers) = world.tcp("kept", 2);
    let target = world.shop.port();
    world.databases.iter().for_each(|host| udp_server(host, target));
    let dns = world.udp("dns", target, &world.databases, |service| service);
    let to = udp_at(&dns, false);
    let socket = world.shop.web.udp(Domain::IPV4).unwrap();
    let (first, _) = ask(&socket, to).unwrap();
    let (stream, _) = dial(&world.shop.web, service.at()).unwrap();
    let old = world.shop.agent.upgrade().unwrap();
    let shop = &world.shop;
    echoes(&stream).unwrap();
    assert_eq!(ask(&socket, to).unwrap(), (first, to));
    assert_eq!(stream.peer_addr().unwrap(), service.at());
    who(&shop.web, service.at());
    old.signal(nix::sys::signal::Signal::SIGTERM);
}
