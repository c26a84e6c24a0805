//! An agent takes another one's place and knows at once where the names of outside services lead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use anyhow::{Context, Result, ensure};
use mesh_tests::dns::Dns;
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{Object, eventually};
use mesh_tests::shop::{NAMESPACE, Shop};
use mesh_tests::{PATIENCE, SOON, agent_options};
use serde_json::json;

const HOST: &str = "moving.example.com";

#[test]
fn an_agent_that_takes_over_knows_names_before_it_serves() {
    let Some(options) = agent_options() else { return };
    let dns = Dns::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let conf = dns.conf(dir.path()).unwrap().display().to_string();
    let options = options.flag("resolv-conf", conf).flag("drain-time", "60s");
    let mut shop = Shop::start("egress-over", options).unwrap();
    let port = shop.port();
    let _server = echo_server(shop.outside.listen(port).unwrap(), "outside");
    // Known by the name alone, and nobody answers there: what isn't led elsewhere fails.
    let at = SocketAddr::new(shop.outside.v4().into(), 80);
    dns.set(HOST, &[shop.outside.v4()]);
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": port}]);
    let entry = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "moving", "namespace": NAMESPACE},
        "spec": {"hosts": [HOST], "resolution": "DNS", "ports": ports},
    });
    shop.topology.mesh().write("moving.yaml", [Object(entry)]).unwrap();
    shop.wait_known(HOST).unwrap();
    let web = shop.web.clone();
    let ask = || -> Result<()> {
        let status = Client::new(web.connect(at)?).get(HOST, "/")?.status();
        ensure!(status == 200, "{status}");
        Ok(())
    };
    eventually(SOON, ask).unwrap();
    dns.slow_down();
    let over = AtomicBool::new(false);
    scope(|scope| {
        let client = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                ask()?;
            }
            // What is left to answer is the newest agent.
            ask()
        });
        for _ in 0..2 {
            let mut former = shop.agent.upgrade().unwrap();
            eventually(PATIENCE, || former.try_wait().context("the former agent goes on")).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        client.join().unwrap().unwrap();
    });
}
