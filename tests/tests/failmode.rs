//! The agent is away: killed, stopped, terminated, back. What clients see in between, and for how long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::h2raw::{END_HEADERS, END_STREAM, RawClient, frame, get as get_block, kind};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{PodObject, SliceObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, need_agent};
use nix::libc::ECONNREFUSED;
use nix::sys::signal::Signal;

/// So soon after the agent's end everything is as the fail mode says.
const PROMISE: Duration = Duration::from_secs(1);

/// Since when the agent is away.
struct Away(Instant);

impl Away {
    fn from_now_on() -> Self {
        Self(Instant::now())
    }

    /// Calls `probe` until it succeeds. A try that began within the promised time may fail, a later one may not, however
    /// long the machine took over either.
    fn holds(&self, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
        eventually(SOON, || {
            let began = self.0.elapsed();
            match probe() {
                Err(error) if began > PROMISE => Ok(Err(error.context(format!("not so after {began:?}")))),
                outcome => outcome.map(Ok),
            }
        })?
    }
}

/// What takes longer hangs.
const HANGS: Duration = Duration::from_secs(3);

fn closed() -> Option<Shop> {
    Some(Shop::start("closed", mesh_tests::agent_options()?).unwrap())
}

fn open() -> Option<Shop> {
    Some(Shop::start_with("open", mesh_tests::agent_options()?, |pod| pod.fail_mode("open")).unwrap())
}

fn get(from: &Host, to: SocketAddr) -> io::Result<u16> {
    let stream = from.connect_within(to, HANGS)?;
    stream.set_read_timeout(Some(HANGS))?;
    Client::new(stream).get("f", "/").map(|answer| answer.status())
}

fn refused(from: &Host, to: SocketAddr) -> Result<()> {
    let error = get(from, to).err().ok_or_else(|| anyhow::anyhow!("{to} was reached"))?;
    ensure!(error.raw_os_error() == Some(ECONNREFUSED), "{to}: {error}");
    Ok(())
}

fn served(from: &Host, to: SocketAddr) -> Result<()> {
    let status = get(from, to)?;
    ensure!(status == 200, "{to}: {status}");
    Ok(())
}

#[test]
fn killed_with_fail_mode_closed_connections_are_refused_within_a_second_and_come_back() {
    let Some(mut shop) = closed() else { return };
    let service = shop.http("closed", "http", 3).unwrap();
    let port = shop.port();
    let _outside = echo_server(shop.outside.listen(port).unwrap(), "outside");
    let targets = [service.at(), service.at6(), shop.carts[0].at(service.target), shop.outside.at(port)];
    for to in targets {
        served(&shop.web, to).unwrap();
    }
    shop.agent.kill();
    let away = Away::from_now_on();
    for to in targets {
        away.holds(|| refused(&shop.web, to)).unwrap();
    }
    // And inbound, once the heartbeat is stale: nobody gets past the absent agent.
    away.holds(|| {
        ensure!(get(&shop.outside, shop.carts[0].at(service.target)).is_err(), "an outsider was let in");
        Ok(())
    })
    .unwrap();
    // It stays so.
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        refused(&shop.web, service.at()).unwrap();
    }
    shop.agent.restart().unwrap();
    for to in targets {
        served(&shop.web, to).unwrap();
    }
    served(&shop.outside, shop.carts[0].at(service.target)).unwrap();
    shop.reason_grows("agent_away_closed", 0.0, 4.0).unwrap();
    shop.reason_grows("inbound_away_closed", 0.0, 1.0).unwrap();
}

#[test]
fn killed_with_fail_mode_open_connections_go_direct_within_a_second_and_come_back() {
    let Some(mut shop) = open() else { return };
    let service = shop.http("open", "http", 3).unwrap();
    let empty = shop.expose("openempty", "http", 1, &[]).unwrap();
    // An IPv6 address is translated to IPv6 endpoints.
    let slice = SliceObject::new(NAMESPACE, "open", "open-6").v6().port("http", service.target);
    let slice = slice.pods(NAMESPACE, shop.carts.iter().map(|host| &**host));
    shop.topology.mesh().write("open-6.yaml", [slice.into()]).unwrap();
    let port = shop.port();
    let (outside, _) = echo_server(shop.outside.listen(port).unwrap(), "outside");
    let direct = shop.carts[0].at(service.target);
    let targets = [service.at(), service.at6(), direct, shop.outside.at(port)];
    for to in targets {
        served(&shop.web, to).unwrap();
    }
    shop.agent.kill();
    let away = Away::from_now_on();
    for to in targets {
        away.holds(|| served(&shop.web, to)).unwrap();
    }
    away.holds(|| served(&shop.outside, direct)).unwrap();
    // A service address leads to a ready endpoint, and every one of them has its share.
    let before = service.counts();
    for _ in 0..60 {
        served(&shop.web, service.at()).unwrap();
    }
    let after: Vec<usize> = service.counts().iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(after.iter().sum::<usize>(), 60, "{after:?}");
    assert!(after.iter().all(|&n| n >= 5), "{after:?}");
    // The application still sees what it dialled, and what has no endpoint is answered by name.
    let stream = shop.web.connect(service.at()).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), service.at());
    let error = shop.web.connect(empty.at()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EHOSTUNREACH), "{error}");
    // Source addresses are true without the agent too.
    let stream = shop.web.connect(shop.outside.at(port)).unwrap();
    let local = stream.local_addr().unwrap();
    drop(stream);
    eventually(SOON, || {
        ensure!(outside.peers().contains(&local), "{local} not among {:?}", outside.peers());
        Ok(())
    })
    .unwrap();

    shop.agent.restart().unwrap();
    let captured = shop.reason("captured");
    for to in targets {
        served(&shop.web, to).unwrap();
    }
    shop.reason_grows("captured", captured, 4.0).unwrap();
    shop.reason_grows("agent_away_service", 0.0, 60.0).unwrap();
    shop.reason_grows("agent_away_open", 0.0, 2.0).unwrap();
    shop.reason_grows("inbound_away_open", 0.0, 1.0).unwrap();
}

#[test]
fn purged_after_its_end_the_agent_s_pods_are_let_go() {
    let Some(mut shop) = closed() else { return };
    let service = shop.http("purged", "http", 1).unwrap();
    let (direct, port) = (shop.carts[0].at(service.target), shop.port());
    let _outside = echo_server(shop.outside.listen(port).unwrap(), "outside");
    let pins = shop.agent.bpffs_dir().to_owned();
    let purge = ["bpf", "purge", "--bpffs-dir", pins.to_str().unwrap()];
    let under_it = shop.agent.cli(&purge).unwrap();
    assert!(under_it.code == 1 && under_it.stderr.contains("still runs"), "{under_it:?}");
    // Nor where another state directory is named: its heartbeat is in the maps.
    let elsewhere = shop.topology.scratch().join("elsewhere");
    let mut blindly = purge.to_vec();
    blindly.extend(["--state-dir", elsewhere.to_str().unwrap()]);
    let under_it = shop.agent.cli(&blindly).unwrap();
    assert!(under_it.code == 1 && under_it.stderr.contains("heartbeat"), "{under_it:?}");
    assert!(under_it.stderr.contains("--force") && pins.exists(), "{under_it:?}");
    served(&shop.web, direct).unwrap();
    shop.agent.kill();
    let away = Away::from_now_on();
    away.holds(|| refused(&shop.web, direct)).unwrap();
    // A beat that is just over doesn't count as away yet.
    let purged = eventually(SOON, || shop.agent.cli(&purge)?.success()).unwrap();
    for pin in ["links/connect4", "links/netns/", "maps/"] {
        assert!(purged.stdout.contains(pin), "{pin} is not in {purged:?}");
    }
    assert!(purged.stderr.contains("let go") && !pins.exists(), "{purged:?}");
    // Links detach once the kernel is done with their last reader.
    for (from, to) in [(&shop.web, direct), (&shop.web, shop.outside.at(port)), (&shop.outside, direct)] {
        eventually(SOON, || served(from, to)).unwrap();
    }
    // Who insists may pull the maps from under a heartbeat.
    shop.agent.restart().unwrap();
    blindly.push("--force");
    let forced = shop.agent.cli(&blindly).unwrap().success().unwrap();
    assert!(forced.stdout.contains("links/connect4") && !pins.exists(), "{forced:?}");
}

#[test]
fn an_endpoint_that_went_while_the_agent_was_away_is_known_after_its_return() {
    let Some(mut shop) = closed() else { return };
    let service = shop.http("changed", "http", 2).unwrap();
    served(&shop.web, service.at()).unwrap();
    shop.agent.kill();
    let [first, ..] = &shop.carts;
    let slice = mesh_tests::shop::slice(&service.name, "http", service.target, &[first]);
    shop.rewrite_endpoints(&service, slice).unwrap();
    shop.agent.restart().unwrap();
    let before = service.counts();
    for _ in 0..20 {
        served(&shop.web, service.at()).unwrap();
    }
    let after: Vec<usize> = service.counts().iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(after, [20, 0]);
}

#[test]
fn an_agent_that_is_stopped_but_alive_is_away_too() {
    let Some(shop) = open() else { return };
    let service = shop.http("stopped", "http", 1).unwrap();
    served(&shop.web, service.at()).unwrap();
    shop.agent.signal(Signal::SIGSTOP);
    let away = Away::from_now_on();
    // Connections into the stopped process hang until the heartbeat is stale, then they go direct.
    let outcome = away.holds(|| served(&shop.web, service.at()));
    shop.agent.signal(Signal::SIGCONT);
    outcome.unwrap();
    let captured = shop.reason("captured");
    eventually(SOON, || served(&shop.web, service.at())).unwrap();
    eventually(SOON, || {
        served(&shop.web, service.at())?;
        let now = shop.reason("captured");
        ensure!(now > captured, "captured: {captured}, then {now}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_pods_fail_mode_can_be_changed_while_it_runs() {
    let Some(mut shop) = closed() else { return };
    let service = shop.http("changedmode", "http", 1).unwrap();
    let pod = Host::new(&shop.topology, shop.node.pod("changing").unwrap()).unwrap();
    let object = PodObject::of(&pod, NAMESPACE);
    shop.topology.mesh().write("changing.yaml", [object.clone().into()]).unwrap();
    eventually(SOON, || shop.reaches(&pod, &service)).unwrap();
    shop.topology.mesh().write("changing.yaml", [object.fail_mode("open").into()]).unwrap();
    eventually(SOON, || {
        let dump = shop.agent.cli_json(&["config", "dump"])?.to_string();
        ensure!(dump.to_lowercase().contains("\"open\""), "no fail mode open in the configuration in force");
        Ok(())
    })
    .unwrap();
    shop.agent.kill();
    let away = Away::from_now_on();
    away.holds(|| served(&pod, service.at())).unwrap_or_else(|error| {
        // Its only endpoint fails closed, so the connection may be refused there; the pod itself must have tried.
        assert!(
            format!("{error:#}").contains("refused") || format!("{error:#}").contains("timed out"),
            "{error:#}"
        );
    });
    shop.agent.restart().unwrap();
    shop.reason_grows("agent_away_service", 0.0, 1.0).unwrap();
}

#[test]
fn terminated_it_finishes_what_it_carries_and_exits_with_0() {
    let options = need_agent!().flag("drain-time", "20s");
    let mut shop = Shop::start("drain", options).unwrap();
    let service = shop.http("drain", "http", 1).unwrap();
    let mut slow = shop.client(&service).unwrap();
    slow.send("GET /slow/1500 HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    let mut idle = shop.client(&service).unwrap();
    idle.get("d", "/").unwrap();
    eventually(SOON, || {
        ensure!(service.seen().count() == 2, "{}", service.seen().count());
        Ok(())
    })
    .unwrap();
    shop.agent.signal(Signal::SIGTERM);
    assert_eq!(slow.read().unwrap().unwrap().text(), "cart-1", "the request under way is answered");
    assert!(idle.closes_within(SOON), "an idle connection is closed");
    let code =
        eventually(PATIENCE, || shop.agent.exit_code().ok_or_else(|| anyhow::anyhow!("still running")))
            .unwrap();
    assert_eq!(code, 0, "{}", shop.agent.log());
}

#[test]
fn while_it_drains_it_is_not_ready() {
    let options = need_agent!().flag("drain-time", "20s");
    let mut shop = Shop::start("notready", options).unwrap();
    let service = shop.http("notready", "http", 1).unwrap();
    let mut slow = shop.client(&service).unwrap();
    slow.send("GET /slow/5000 HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    assert_eq!(shop.agent.get("/readyz").unwrap().0, 200);
    eventually(SOON, || {
        ensure!(service.seen().count() == 1);
        Ok(())
    })
    .unwrap();
    shop.agent.signal(Signal::SIGTERM);
    eventually(SOON, || {
        let (status, _) = shop.agent.get("/readyz")?;
        ensure!(status == 503, "{status}");
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.agent.get("/livez").unwrap().0, 200);
    assert_eq!(slow.read().unwrap().unwrap().status(), 200);
    eventually(PATIENCE, || shop.agent.exit_code().ok_or_else(|| anyhow::anyhow!("still running"))).unwrap();
}

#[test]
fn bytes_that_never_end_are_reset_and_logged_at_the_drain_deadline() {
    let options = need_agent!().flag("drain-time", "1s");
    let mut shop = Shop::start("cut-tcp", options).unwrap();
    let port = shop.port();
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    let service = shop.expose("cut-tcp", "tcp", port, &[&shop.carts[0]]).unwrap();
    let mut stream = shop.web.connect(service.at()).unwrap();
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    shop.agent.signal(Signal::SIGTERM);
    let end = stream.read(&mut [0; 4]);
    assert!(end.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset), "{end:?}");
    eventually(SOON, || shop.agent.exit_code().ok_or_else(|| anyhow::anyhow!("still running"))).unwrap();
    let of = |line: &&serde_json::Value| line["destination_service"] == "cut-tcp.shop.svc.cluster.local";
    let line = shop.agent.access_log().iter().find(of).cloned().expect("a line of the connection");
    assert_eq!((&line["response_flags"], &line["bytes_received"]), (&"OM".into(), &4.into()), "{line}");
}

#[test]
fn what_never_ends_is_cut_at_the_drain_deadline() {
    let options = need_agent!().flag("drain-time", "1s");
    let mut shop = Shop::start("cut", options).unwrap();
    let service = shop.http("cut", "http", 1).unwrap();
    let mut hanging = shop.client(&service).unwrap();
    hanging.send("GET /hang HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    eventually(SOON, || {
        ensure!(service.seen().count() == 1);
        Ok(())
    })
    .unwrap();
    let started = Instant::now();
    shop.agent.signal(Signal::SIGTERM);
    assert!(hanging.closes_within(SOON));
    eventually(SOON, || shop.agent.exit_code().ok_or_else(|| anyhow::anyhow!("still running"))).unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < PATIENCE, "{took:?}");
}

#[test]
fn an_http2_client_is_told_goaway_and_its_stream_finishes() {
    let options = need_agent!().flag("drain-time", "20s");
    let mut shop = Shop::start("goaway", options).unwrap();
    let port = shop.port();
    let (arrived, arrival) = std::sync::mpsc::channel();
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let released = release.clone();
    let handle = move |_request, mut respond| {
        let _ = arrived.send(());
        let released = released.clone();
        async move {
            released.notified().await;
            mesh_tests::http2::answer(&mut respond, "finished", None);
        }
    };
    let _server = mesh_tests::http2::H2Server::new(shop.carts[0].listen(port).unwrap(), None, handle);
    let service = shop.expose("goaway", "http2", port, &[&shop.carts[0]]).unwrap();
    let mut raw = RawClient::start(shop.web.connect(service.at()).unwrap()).unwrap();
    raw.send(&frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &get_block("/"))).unwrap();
    arrival.recv_timeout(PATIENCE).unwrap();
    shop.agent.signal(Signal::SIGTERM);
    let goaway = raw.read_until(|f| f.kind == kind::GOAWAY).expect("GOAWAY");
    assert_eq!(goaway.code(), Some(0));
    release.notify_one();
    let data = raw.read_until(|f| f.kind == kind::DATA && f.stream == 1).expect("the answer after GOAWAY");
    assert_eq!(data.payload, b"finished");
    let code =
        eventually(PATIENCE, || shop.agent.exit_code().ok_or_else(|| anyhow::anyhow!("still running")))
            .unwrap();
    assert_eq!(code, 0);
}
