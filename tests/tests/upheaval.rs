//! Change under load: endpoints that come and go, pods that are made and taken away, connections by the thousand.
//! Nobody loses a request for it, and nothing piles up in the agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::http1::Client;
use mesh_tests::lab::{PodObject, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::{NAMESPACE, Service, Shop, slice};
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON, need_agent};

/// Clients that ask all the time; the first failure is kept.
struct Load<'a> {
    shop: &'a Shop,
    service: &'a Service,
    stop: AtomicBool,
    done: AtomicUsize,
}

impl<'a> Load<'a> {
    fn new(shop: &'a Shop, service: &'a Service) -> Self {
        Self { shop, service, stop: AtomicBool::new(false), done: AtomicUsize::new(0) }
    }

    /// Requests on one connection after the other, `each` on every one, until told to stop.
    fn ask(&self, from: &Host, each: usize) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut client = Client::new(from.connect(self.service.at())?);
            for _ in 0..each {
                let status = client.get(&self.service.name, "/")?.status();
                ensure!(status == 200, "{status} after {} requests", self.done.load(Ordering::Relaxed));
                self.done.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Runs `work` while four clients ask; fails with the first of their failures.
    fn during(&self, work: impl FnOnce()) {
        std::thread::scope(|scope| {
            let web = &self.shop.web;
            let clients = [(web, 1), (web, 20), (&self.shop.batch, 1), (&self.shop.batch, 20)]
                .map(|(from, each)| scope.spawn(move || self.ask(from, each)));
            work();
            self.stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().unwrap().unwrap();
            }
        });
    }
}

#[test]
fn endpoints_that_come_and_go_cost_no_request() {
    let shop = Shop::start("churn", need_agent!()).unwrap();
    for (name, port_name) in [("churnhttp", "http"), ("churntcp", "tcp")] {
        let service = shop.http(name, port_name, 3).unwrap();
        let [a, b, c] = &shop.carts;
        let load = Load::new(&shop, &service);
        load.during(|| {
            for hosts in [&[a][..], &[b, c], &[a, b, c], &[c], &[a, b]].into_iter().cycle().take(30) {
                let before = shop.agent.metrics().unwrap().sum("mesh_agent_config_generation", &[]);
                shop.rewrite_endpoints(&service, slice(name, port_name, service.target, hosts)).unwrap();
                shop.metrics_show(|metrics| {
                    ensure!(metrics.sum("mesh_agent_config_generation", &[]) > before);
                    Ok(())
                })
                .unwrap();
            }
        });
        assert!(load.done.load(Ordering::Relaxed) > 200, "{}", load.done.load(Ordering::Relaxed));
    }
}

#[test]
fn pods_that_come_and_go_disturb_nobody_and_leave_nothing() {
    let shop = Shop::start("comings", need_agent!()).unwrap();
    let service = shop.http("comings", "http", 2).unwrap();
    let entries = || shop.agent.metrics().unwrap().sum("mesh_agent_enrolled_pods", &[("state", "captured")]);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", shop.agent.pid())).unwrap().count();
    eventually(SOON, || {
        ensure!(entries() == 5.0, "{}", entries());
        Ok(())
    })
    .unwrap();
    let before = descriptors();
    let load = Load::new(&shop, &service);
    load.during(|| {
        for round in 0..8 {
            let pods: Vec<Host> = (0..3)
                .map(|i| {
                    Host::new(&shop.topology, shop.node.pod(&format!("guest-{round}-{i}")).unwrap()).unwrap()
                })
                .collect();
            let objects = pods.iter().map(|pod| PodObject::of(pod, NAMESPACE).into());
            shop.topology.mesh().write("guests.yaml", objects).unwrap();
            for pod in &pods {
                eventually(SOON, || shop.reaches(pod, &service)).unwrap();
            }
            // Every other time the namespaces go before their objects do.
            if round % 2 == 0 {
                drop(pods);
            }
            shop.topology.mesh().remove("guests.yaml").unwrap();
        }
    });
    eventually(PATIENCE, || {
        ensure!(entries() == 5.0, "{} pods", entries());
        // Pooled upstream connections are kept for a while.
        ensure!(descriptors() < before + 60, "{before} descriptors before, {} after", descriptors());
        Ok(())
    })
    .unwrap();
}

#[test]
fn thousands_of_connections_leave_no_memory_and_no_descriptors() {
    let shop = Shop::start("thousands", need_agent!()).unwrap();
    let service = shop.http("thousands", "tcp", 3).unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", shop.agent.pid())).unwrap().count();
    let resident = || -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", shop.agent.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let burst = |count: usize| {
        let held: Vec<Client> = (0..count).map(|_| shop.client(&service).unwrap()).collect();
        for mut client in held {
            assert_eq!(client.get("t", "/").unwrap().status(), 200);
        }
    };
    burst(300);
    let before = (descriptors(), resident());
    for _ in 0..8 {
        burst(300);
    }
    eventually(PATIENCE, || {
        let now = (descriptors(), resident());
        ensure!(now.0 <= before.0 + 20, "{} descriptors before, {} after", before.0, now.0);
        ensure!(now.1 < before.1 + 10_000, "{} kB before, {} kB after", before.1, now.1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn slow_readers_cost_little_memory_each() {
    let shop = Shop::start("readers", need_agent!()).unwrap();
    let port = shop.port();
    let server = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        use std::io::{Read, Write};
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let block = [b'x'; 64 * 1024];
        while stream.write_all(&block).is_ok() {}
    });
    let service = shop.expose("readers", "http", port, &[&shop.carts[0]]).unwrap();
    let resident = || -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", shop.agent.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = resident();
    let held: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = shop.client(&service).unwrap();
            client.send("GET / HTTP/1.1\r\nHost: r\r\n\r\n").unwrap();
            client
        })
        .collect();
    // Until every one of them is held back.
    eventually(PATIENCE, || {
        ensure!(server.accepted() == 100, "{}", server.accepted());
        Ok(())
    })
    .unwrap();
    let mut last = 0;
    eventually(PATIENCE, || {
        let now = resident();
        let settled = now.abs_diff(last) < 100;
        last = now;
        // Two equal looks a moment apart.
        std::thread::sleep(Duration::from_millis(200));
        ensure!(settled, "still growing at {now} kB");
        Ok(())
    })
    .unwrap();
    let each = last.saturating_sub(before) / held.len();
    assert!(each < 200, "{each} kB for each reader");
}
