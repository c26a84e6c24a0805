//! The kernel programs on a real kernel, one rule of DESIGN 4 a test. Needs root and the compiled programs; says so and
//! passes where either is missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "kernel/adoption.rs"]
mod adoption;
#[path = "kernel/lab.rs"]
mod lab;

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use lab::{Lab, Listeners, accept, connect_script, eventually, finish, line, run, server_script};
use mesh_agent::addr::{ClientAddr, EndpointAddr, OrigDst};
use mesh_agent::kernel::{EnrolPod, Families, KernelStatus, netns};
use mesh_agent::model::{AppProtocol, Endpoint, EndpointSet, ObjectName, ServiceMeta, ServicePort, Snapshot};
use mesh_common::{FAIL_CLOSED, FAIL_OPEN, PodEntry, Reason, capture};

const ECONNREFUSED: &str = "errno 111";
const EHOSTUNREACH: &str = "errno 113";
const ENETUNREACH: &str = "errno 101";
const BOTH: u32 = capture::OUTBOUND | capture::INBOUND;

fn orig(addr: &str, port: u16) -> Option<OrigDst> {
    Some(OrigDst::new(addr.parse().unwrap(), port))
}

fn client(addr: &str) -> ClientAddr {
    ClientAddr::from(addr.parse::<SocketAddr>().unwrap())
}

fn service(vip: &str, port: u16, protocol: AppProtocol, endpoints: &[SocketAddr]) -> Snapshot {
    let endpoint = |addr: &SocketAddr| {
        Arc::new(Endpoint {
            addr: EndpointAddr::from(*addr),
            workload: None,
            node: None,
            zone: None,
            ready: true,
            serving: true,
            terminating: false,
            load: Arc::default(),
        })
    };
    let available: Vec<_> = endpoints.iter().map(endpoint).collect();
    let meta = ServiceMeta {
        name: ObjectName::new("shop", "cart"),
        host: "cart.shop.svc.cluster.local".into(),
        trace_sampling: None,
    };
    let service = Arc::new(ServicePort {
        service: Arc::new(meta),
        name: String::new(),
        port,
        protocol,
        protocol_from: Default::default(),
        policy: Arc::default(),
        variants: Vec::new(),
        subset_name: None,
        subsets: Vec::new(),
        retries: Default::default(),
        session: None,
        external: None,
        backend_policy: None,
        endpoints: EndpointSet { all: available.clone(), available, ..EndpointSet::default() },
    });
    let mut snapshot = Snapshot::default();
    snapshot.vips.insert_mut((vip.parse().unwrap(), port), service);
    snapshot
}

#[test]
fn connections_of_every_family_are_captured_with_their_destination() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_CLOSED, BOTH);
    let cases = [
        ("10.96.0.1", "10.96.0.1", &listeners.out4),
        ("fd00:96::1", "fd00:96::1", &listeners.out6),
        ("::ffff:10.96.0.2", "10.96.0.2", &listeners.out4),
    ];
    for (dialled, original, listener) in cases {
        let own_too = connect_script(dialled, 8080).replace("s.close()", "print(*s.getsockname()[:2])");
        let application = lab.spawn(&lab.a, &own_too);
        let (stream, peer) = accept(listener);
        assert_eq!(agent.flows.original_dst(stream.as_fd()), orig(original, 8080), "{dialled}");
        let own = match original.contains(':') {
            true => lab.a.v6.to_string(),
            false => format!("{}{}", dialled.strip_suffix(original).unwrap(), lab.a.v4),
        };
        let expected = format!("ok {dialled} 8080\n{own} {}", peer.port());
        assert_eq!(finish(application), expected, "getpeername, getsockname");
        drop(stream);
    }
    assert_eq!((agent.count(Reason::Captured), agent.count(Reason::Published)), (3, 3));
    assert_eq!(agent.entries("ORIGINAL_DST_V2"), 0);
}

#[test]
fn a_client_that_resets_at_once_keeps_its_destination_until_accept() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_CLOSED, BOTH);
    let reset = "s=socket.socket(); s.connect(('10.96.0.1',80)); s.send(b'x')
s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\\1\\0\\0\\0\\0\\0\\0\\0'); s.close(); print('closed')";
    assert_eq!(finish(lab.spawn(&lab.a, reset)), "closed");
    let (stream, _) = accept(&listeners.out4);
    assert_eq!(agent.flows.original_dst(stream.as_fd()), orig("10.96.0.1", 80));
}

#[test]
fn a_source_port_that_is_used_again_before_accept_mixes_up_no_destinations() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_CLOSED, BOTH);
    for (listener, family, any, address) in
        [(&listeners.out4, "AF_INET", "0.0.0.0", "10.96.0"), (&listeners.out6, "AF_INET6", "::", "fd00:96:")]
    {
        let separator = if any == "::" { ":" } else { "." };
        let reuse = format!(
            "for i in range(1,6):
  s=socket.socket(socket.{family}); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)
  s.bind(('{any}',40000)); s.connect(('{address}{separator}%d'%i,80)); s.send(b'%d'%i)
  if i < 5: s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\\1\\0\\0\\0\\0\\0\\0\\0')
  s.close()
print('done')"
        );
        assert_eq!(finish(lab.spawn(&lab.a, &reuse)), "done");
        let accepted: Vec<_> = (1..6).map(|_| accept(listener)).collect();
        for (i, (stream, from)) in (1..).zip(&accepted) {
            assert_eq!(from.port(), 40000);
            let wanted = orig(&format!("{address}{separator}{i}"), 80);
            assert_eq!(agent.flows.original_dst(stream.as_fd()), wanted, "of the {i}th");
        }
        let mut last = [0];
        accepted.last().unwrap().0.try_clone().unwrap().read_exact(&mut last).unwrap();
        assert_eq!(last, *b"5");
    }
    assert_eq!(agent.entries("ORIGINAL_DST_V2"), 0);
}

#[test]
fn connections_that_nobody_accepts_leave_nothing_behind() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_CLOSED, BOTH);
    // Established on both sides, then the agent died.
    assert_eq!(lab.connect(&lab.a, "10.96.0.1", 80), "ok 10.96.0.1 80");
    assert_eq!((agent.count(Reason::Published), agent.entries("ORIGINAL_DST_V2")), (1, 0));
    drop(listeners);
    // Never established.
    assert_eq!(lab.connect(&lab.a, "10.96.0.1", 80), ECONNREFUSED);
    assert_eq!((agent.count(Reason::Published), agent.entries("ORIGINAL_DST_V2")), (1, 0));
}

#[test]
fn a_connection_whose_other_end_is_never_made_takes_its_record_along() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_CLOSED, BOTH);
    // Its last segment of the handshake is dropped until data comes.
    lab::defer_accept(&listeners.out4);
    let mut client = lab.spawn(
        &lab.a,
        "s=socket.socket(); s.connect(('10.96.0.1',80)); print('established'); sys.stdin.readline()
s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\\1\\0\\0\\0\\0\\0\\0\\0'); s.close(); print('closed')
s=socket.socket(); s.connect(('10.96.0.2',80)); s.send(b'x'); print('sent'); sys.stdin.readline()",
    );
    assert_eq!(line(&mut client), "established");
    assert_eq!((agent.count(Reason::Published), agent.entries("ORIGINAL_DST_V2")), (1, 1));
    client.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(line(&mut client), "closed");
    assert_eq!(line(&mut client), "sent");
    let (stream, _) = accept(&listeners.out4);
    assert_eq!(agent.flows.original_dst(stream.as_fd()), orig("10.96.0.2", 80));
    assert_eq!((agent.count(Reason::Published), agent.entries("ORIGINAL_DST_V2")), (2, 0));
    drop(client.stdin.take());
    client.wait().unwrap();
}

#[test]
fn dialling_the_agents_ports_is_refused_and_loopback_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_OPEN, BOTH);
    for dst in ["127.0.0.1", "127.0.0.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"] {
        for port in [15001, 15006, 15008] {
            assert_eq!(lab.connect(&lab.a, dst, port), ECONNREFUSED, "{dst} {port}");
        }
    }
    assert_eq!(agent.count(Reason::DialledAgentPort), 18);
    let own = lab.a.listen("127.0.0.1:8000");
    assert_eq!(lab.connect(&lab.a, "127.0.0.1", 8000), "ok 127.0.0.1 8000");
    drop(accept(&own));
    assert_eq!((agent.count(Reason::Loopback), agent.count(Reason::Captured)), (1, 0));
    for port in [15001, 15006, 15008] {
        assert_eq!(lab.connect(&lab.b, &lab.a.v4.to_string(), port), ECONNREFUSED, "from outside");
    }
    assert!(agent.count(Reason::InboundAgentPort) >= 2);
}

#[test]
fn own_sockets_are_never_captured_and_applications_see_the_true_client() {
    for agent_within in [false, true] {
        let Some(lab) = Lab::with_subtree(agent_within) else { return };
        own_sockets(&lab, agent_within);
    }
}

fn own_sockets(lab: &Lab, agent_within: bool) {
    let mut agent = lab.agent();
    let (la, lb) = (Listeners::new(&lab.a), Listeners::new(&lab.b));
    agent.enrol(&lab.a, &la, FAIL_CLOSED, BOTH);
    agent.enrol(&lab.b, &lb, FAIL_CLOSED, BOTH);
    let mut server = lab.spawn(&lab.b, &server_script(8080));
    assert_eq!(line(&mut server), "listening");
    let cases = [
        (lab.b.v4, "10.1.2.3:4567", "::ffff:10.1.2.3 4567"),
        (lab.b.v6, "[fd00:7::7]:4567", "fd00:7::7 4567"),
    ];
    for (to, from, seen) in cases {
        let stream = agent.dial(&lab.a, SocketAddr::new(to, 8080), Some(client(from))).unwrap();
        assert_eq!(line(&mut server), seen);
        assert_eq!(agent.entries("AGENT_FLOWS_V1"), 1);
        drop(stream);
        eventually("flow gone after close", || agent.entries("AGENT_FLOWS_V1") == 0);
    }
    let to = SocketAddr::new(lab.b.v4, 8080);
    // No client to tell; an address without a port; from within the pod, as the inbound side does it.
    let plain = agent.dial(&lab.a, to, None).unwrap();
    let own = plain.local_addr().unwrap();
    assert_eq!(line(&mut server), format!("::ffff:{} {}", own.ip(), own.port()));
    let only = agent.dial(&lab.a, to, Some(client("10.9.9.9:0"))).unwrap();
    assert_eq!(line(&mut server), format!("::ffff:10.9.9.9 {}", only.local_addr().unwrap().port()));
    let inner = agent.dial(&lab.b, to, Some(client("10.1.2.3:99"))).unwrap();
    assert_eq!(line(&mut server), "::ffff:10.1.2.3 99");
    drop((plain, only, inner));
    agent.dial(&lab.a, SocketAddr::new(lab.b.v4, 8081), None).unwrap_err();
    eventually("flows gone", || agent.entries("AGENT_FLOWS_V1") == 0);
    assert_eq!((agent.count(Reason::Captured), agent.count(Reason::InboundCaptured)), (0, 0));
    assert_eq!(agent.count(Reason::FlowPublished), 6);
    assert_eq!(agent.count(Reason::AgentSocket), if agent_within { 6 } else { 0 });
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn inbound_connections_to_any_port_reach_the_agent_with_their_destination() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let lb = Listeners::new(&lab.b);
    let second = lab.b.listen("127.0.0.1:15006");
    agent.enrol(&lab.b, &lb, FAIL_CLOSED, BOTH);
    let mut second_got = 0;
    for port in 7000..7016 {
        assert_eq!(lab.connect(&lab.a, &lab.b.v4.to_string(), port), format!("ok {} {port}", lab.b.v4));
        let stream = match second.accept() {
            Ok((stream, _)) => {
                second_got += 1;
                stream
            }
            Err(_) => accept(&lb.in4).0,
        };
        assert_eq!(stream.local_addr().unwrap(), SocketAddr::new(lab.b.v4, port));
    }
    assert!((1..16).contains(&second_got), "the reuseport group shares: {second_got} of 16");
    assert_eq!(lab.connect(&lab.a, &lab.b.v6.to_string(), 7000), format!("ok {} 7000", lab.b.v6));
    let (stream, peer) = accept(&lb.in6);
    assert_eq!((stream.local_addr().unwrap(), peer.ip()), (SocketAddr::new(lab.b.v6, 7000), lab.a.v6));
    // An address that the pod got without telling anyone.
    run(&format!("ip -n {} addr add 10.201.{}.77/32 dev eth0", lab.b.name, lab.n));
    assert_eq!(lab.connect(&lab.a, &format!("10.201.{}.77", lab.n), 7000), ECONNREFUSED);
    assert!(agent.count(Reason::InboundUnknownAddress) >= 1);
    assert!(agent.count(Reason::InboundCaptured) >= 17);
}

#[test]
fn what_comes_to_the_hbone_port_reaches_the_listener_for_it_and_nothing_else_does() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let mut lb = Listeners::new(&lab.b);
    lb.hbone4 = Some(lab.b.listen("127.0.0.1:15008"));
    agent.enrol(&lab.b, &lb, FAIL_CLOSED, BOTH);
    let to = lab.b.v4.to_string();
    assert_eq!(lab.connect(&lab.a, &to, 15008), format!("ok {to} 15008"));
    let (stream, peer) = accept(lb.hbone4.as_ref().unwrap());
    assert_eq!((stream.local_addr().unwrap(), peer.ip()), (SocketAddr::new(lab.b.v4, 15008), lab.a.v4));
    assert_eq!(lab.connect(&lab.a, &to, 7000), format!("ok {to} 7000"));
    assert_eq!(accept(&lb.in4).0.local_addr().unwrap(), SocketAddr::new(lab.b.v4, 7000));
    assert_eq!(agent.entries("HBONE_LISTENERS_V1"), 1);
    // No listener, no connection: neither of the family that has none, nor after the agent's end.
    assert_eq!(lab.connect(&lab.a, &lab.b.v6.to_string(), 15008), ECONNREFUSED);
    lb.hbone4.take();
    assert_eq!(lab.connect(&lab.a, &to, 15008), ECONNREFUSED);
    assert_eq!(agent.entries("HBONE_LISTENERS_V1"), 0);
}

#[test]
fn refusals_carry_their_errno() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let la = Listeners::new(&lab.a);
    let stats = agent.kernel.sync_services(&service("10.96.0.5", 80, AppProtocol::Tcp, &[]), true);
    assert_eq!((stats.written, stats.failed), (1, 0));
    agent.enrol(&lab.a, &la, FAIL_CLOSED, BOTH);
    assert_eq!(lab.connect(&lab.a, "10.96.0.5", 80), EHOSTUNREACH);
    // HTTP: the agent answers 503 itself.
    agent.kernel.sync_services(&service("10.96.0.5", 80, AppProtocol::Http, &[]), true);
    assert_eq!(lab.connect(&lab.a, "10.96.0.5", 80), "ok 10.96.0.5 80");
    assert_eq!(lab.connect(&lab.a, "10.96.0.6", 80), "ok 10.96.0.6 80");
    agent.enrol(&lab.a, &la, FAIL_CLOSED, BOTH | capture::REGISTRY_ONLY);
    assert_eq!(lab.connect(&lab.a, "10.96.0.6", 80), ECONNREFUSED);
    assert_eq!(lab.connect(&lab.a, "10.96.0.5", 80), "ok 10.96.0.5 80");
    let mut snapshot = service("10.96.0.5", 80, AppProtocol::Http, &[]);
    let port = snapshot.vips.values().next().unwrap().clone();
    snapshot.by_endpoint.insert_mut(EndpointAddr::new("10.96.0.6".parse().unwrap(), 1), port);
    agent.kernel.sync_services(&snapshot, true);
    assert_eq!(lab.connect(&lab.a, "10.96.0.6", 80), "ok 10.96.0.6 80");
    assert_eq!((agent.count(Reason::NoEndpoint), agent.count(Reason::UnknownDestination)), (1, 1));
    let stats = agent.kernel.sync_services(&Snapshot::default(), true);
    assert_eq!((stats.removed, agent.entries("SERVICES_V2"), agent.entries("ENDPOINTS_V1")), (2, 0, 0));
}

#[test]
fn a_socket_bound_to_a_device_is_refused_rather_than_left_to_hang_or_to_pass_by() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_OPEN, BOTH);
    let bound = |device: &str, dst: &str| {
        let bind = format!("s.setsockopt(socket.SOL_SOCKET,socket.SO_BINDTODEVICE,b'{device}')\ntry:");
        finish(lab.spawn(&lab.a, &connect_script(dst, 80).replace("try:", &bind)))
    };
    for dst in ["10.96.0.1", "fd00:96::1", "::ffff:10.96.0.1"] {
        assert_eq!(bound("eth0", dst), ENETUNREACH, "{dst}");
    }
    assert_eq!((agent.count(Reason::BoundToDevice), agent.count(Reason::Captured)), (3, 0));
    assert_eq!(bound("lo", "10.96.0.1"), "ok 10.96.0.1 80");
    // Without an agent nothing is rewritten, so the device doesn't matter.
    agent.fall_silent();
    let application = lab.b.listen(&format!("{}:80", lab.b.v4));
    drop(listeners);
    assert_eq!(bound("eth0", &lab.b.v4.to_string()), format!("ok {} 80", lab.b.v4));
    drop(accept(&application));
}

#[test]
fn pods_follow_their_fail_mode_while_the_agent_is_away() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let (la, lb) = (Listeners::new(&lab.a), Listeners::new(&lab.b));
    let endpoints = [SocketAddr::new(lab.b.v4, 8080)];
    agent.kernel.sync_services(&service("10.96.0.5", 80, AppProtocol::Http, &endpoints), true);
    agent.enrol(&lab.a, &la, FAIL_OPEN, BOTH);
    agent.enrol(&lab.b, &lb, FAIL_OPEN, BOTH);
    let mut server = lab.spawn(&lab.b, &server_script(8080));
    assert_eq!(line(&mut server), "listening");
    agent.fall_silent();
    assert_eq!(lab.connect(&lab.a, &lab.b.v4.to_string(), 8080), format!("ok {} 8080", lab.b.v4));
    assert!(line(&mut server).starts_with(&format!("::ffff:{} ", lab.a.v4)));
    for vip in ["10.96.0.5", "::ffff:10.96.0.5"] {
        assert_eq!(lab.connect(&lab.a, vip, 80), format!("ok {vip} 80"));
        line(&mut server);
    }
    agent.kernel.sync_services(&service("10.96.0.5", 80, AppProtocol::Http, &[]), true);
    assert_eq!(lab.connect(&lab.a, "10.96.0.5", 80), EHOSTUNREACH);
    assert_eq!((agent.count(Reason::AgentAwayService), agent.count(Reason::NoEndpoint)), (2, 1));
    // A stray packet of a closed connection looks for a listener too, so sk_lookup's counts are at least so many.
    assert_eq!(agent.count(Reason::AgentAwayOpen), 1);
    assert!(agent.count(Reason::InboundAwayOpen) >= 3);
    // What comes in follows the destination pod's mode.
    agent.enrol(&lab.b, &lb, FAIL_CLOSED, BOTH);
    assert_eq!(lab.connect(&lab.a, &lab.b.v4.to_string(), 8080), ECONNREFUSED);
    assert!(agent.count(Reason::InboundAwayClosed) >= 1);
    agent.enrol(&lab.a, &la, FAIL_CLOSED, BOTH);
    assert_eq!(lab.connect(&lab.a, "10.96.0.5", 80), ECONNREFUSED);
    assert_eq!((agent.count(Reason::AgentAwayClosed), agent.entries("ORIGINAL_DST_V2")), (1, 0));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_new_agent_adopts_what_a_killed_one_left() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let la = Listeners::new(&lab.a);
    agent
        .kernel
        .sync_services(&service("10.96.0.5", 80, AppProtocol::Tcp, &[SocketAddr::new(lab.b.v4, 80)]), true);
    agent.enrol(&lab.a, &la, FAIL_CLOSED, BOTH);
    let before = agent.kernel.status();
    agent.die();
    drop(la);
    assert_eq!(lab.connect(&lab.a, "10.96.0.1", 80), ECONNREFUSED);
    assert_eq!(lab.connect(&lab.b, &lab.a.v4.to_string(), 80), ECONNREFUSED);

    let mut agent = lab.agent();
    let after = agent.kernel.status();
    let ids = |status: &KernelStatus| status.links.iter().map(|link| link.id).collect::<Vec<_>>();
    assert_eq!((ids(&before), after.links.len()), (ids(&after), 15), "the same links");
    assert!(
        before.links.iter().zip(&after.links).all(|(b, a)| b.program_id != a.program_id),
        "on new programs"
    );
    assert_eq!(agent.kernel.enrolled_cookies(), [lab.a.cookie]);
    let la = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &la, FAIL_CLOSED, BOTH);
    let application = lab.spawn(&lab.a, &connect_script("10.96.0.1", 80));
    let (stream, _) = accept(&la.out4);
    assert_eq!(agent.flows.original_dst(stream.as_fd()), orig("10.96.0.1", 80));
    assert_eq!(finish(application), "ok 10.96.0.1 80");
    // What the earlier process wrote of services is replaced.
    let changed = service("10.96.0.5", 80, AppProtocol::Tcp, &[SocketAddr::new(lab.b.v4, 81)]);
    let stats = agent.kernel.sync_services(&changed, true);
    assert_eq!((stats.written, agent.entries("SERVICES_V2"), agent.entries("ENDPOINTS_V1")), (1, 1, 1));
    assert_eq!(agent.kernel.sync_services(&changed, true).written, 0);
}

#[test]
fn a_netns_that_goes_while_no_agent_looks_is_cleaned_up_by_the_next() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let name = format!("{}-c", lab.tag);
    run(&format!("ip netns add {name}"));
    let netns = File::open(format!("/run/netns/{name}")).unwrap();
    let cookie = netns::enter(netns.as_fd(), netns::cookie_here).unwrap().unwrap();
    let entry = PodEntry { fail_mode: FAIL_CLOSED, capture: BOTH };
    let addresses = ["10.99.99.99".parse().unwrap()];
    let pod = EnrolPod {
        cookie,
        entry,
        addresses: &addresses,
        netns: netns.as_fd(),
        inbound: Families::default(),
        hbone: Families::default(),
    };
    agent.kernel.enrol(&pod).unwrap();
    agent.die();
    drop(netns);
    run(&format!("ip netns del {name}"));
    // The kernel takes a namespace down in its own time.
    eventually("the next agent has dropped it", || {
        let agent = lab.agent();
        agent.kernel.enrolled_cookies().is_empty() && agent.entries("ADDRESSES_V1") == 0
    });
}

#[test]
fn programs_load_with_their_debug_lines_on() {
    let Some(lab) = Lab::new() else { return };
    let filter = tracing_subscriber::EnvFilter::new("mesh_ebpf=debug");
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().finish();
    let mut agent = tracing::subscriber::with_default(subscriber, || lab.agent());
    let listeners = Listeners::new(&lab.a);
    agent.enrol(&lab.a, &listeners, FAIL_CLOSED, BOTH);
    assert_eq!(lab.connect(&lab.a, "10.96.0.1", 80), "ok 10.96.0.1 80");
}

#[test]
fn unenrolling_breaks_no_established_connection() {
    let Some(lab) = Lab::new() else { return };
    let mut agent = lab.agent();
    let (la, lb) = (Listeners::new(&lab.a), Listeners::new(&lab.b));
    agent.enrol(&lab.a, &la, FAIL_CLOSED, BOTH);
    agent.enrol(&lab.b, &lb, FAIL_CLOSED, BOTH);
    let exchange = |to: &str| {
        format!(
            "s=socket.create_connection(('{to}',8080)); print('up')
sys.stdin.readline(); s.send(b'ping'); print(s.recv(9).decode(), *s.getpeername()[:2])"
        )
    };
    let mut outbound = lab.spawn(&lab.a, &exchange("10.96.0.1"));
    let (mut out_agent, _) = accept(&la.out4);
    assert_eq!(line(&mut outbound), "up");
    agent.kernel.unenrol(lab.a.cookie).unwrap();
    let mut inbound = lab.spawn(&lab.a, &exchange(&lab.b.v4.to_string()));
    let (mut in_agent, _) = accept(&lb.in4);
    assert_eq!(line(&mut inbound), "up");
    agent.kernel.unenrol(lab.b.cookie).unwrap();
    drop((la, lb));
    let b = lab.b.v4.to_string();
    for (child, stream, peer) in
        [(&mut outbound, &mut out_agent, "10.96.0.1"), (&mut inbound, &mut in_agent, &b)]
    {
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(b"pong").unwrap();
        assert_eq!(line(child), format!("pong {peer} 8080"));
        child.wait().unwrap();
    }
    // New ones go as if there had never been a mesh.
    let application = lab.b.listen(&format!("{b}:8080"));
    assert_eq!(lab.connect(&lab.a, &b, 8080), format!("ok {b} 8080"));
    drop(accept(&application));
    assert!(agent.kernel.enrolled_cookies().is_empty());
    let status = agent.kernel.status();
    assert_eq!(status.links.len(), 14, "{:?}", status.links);
    assert_eq!((agent.entries("ADDRESSES_V1"), agent.entries("LISTENERS_V1")), (0, 0));
    assert_eq!(agent.entries("HBONE_LISTENERS_V1"), 0);
    for p in &status.programs {
        println!("{}: {} instructions verified, {} bytes", p.name, p.verified_instructions, p.jited_bytes);
    }
}
