//! Checks at work on loopback: verdicts come and go, survive what doesn't concern them, and end with their endpoint.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::kernel::Flows;
use crate::model::{Service, ServicePort, Snapshot};
use crate::policy::traffic::{Probe, TrafficPolicy};
use crate::proxy::testing;
use crate::telemetry::Telemetry;

/// Failures in a row that make an endpoint unhealthy.
const THRESHOLD: u32 = 2;

fn check() -> Arc<HealthCheck> {
    Arc::new(HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(30),
        healthy_threshold: 1,
        unhealthy_threshold: THRESHOLD,
        port: None,
    })
}

fn pod() -> Captured {
    let netns = Arc::new(std::fs::File::open("/proc/self/ns/net").unwrap().into());
    Captured { cookie: 1, workload: Arc::new(testing::workload()), netns }
}

/// What is wanted for `port` under `how`, with or without a captured pod.
fn wanted(port: &Arc<ServicePort>, how: Option<&Arc<HealthCheck>>, pods: Vec<Captured>) -> Arc<Wanted> {
    let mut snapshot = Snapshot::default();
    let ports = vec![port.clone()];
    let (meta, name) = (port.service.clone(), port.service.name.clone());
    let (ports_v4, ports_v6) = (Vec::new(), Vec::new());
    let service = Service {
        meta,
        vips: Vec::new(),
        headless: true,
        ports,
        ports_v4,
        ports_v6,
        ranges: Vec::new(),
        udp: Vec::new(),
    };
    snapshot.services.insert_mut(name.clone(), Arc::new(service));
    let policy = TrafficPolicy { health_check: how.cloned(), ..TrafficPolicy::default() };
    snapshot.traffic.insert_mut((name, port.port), Arc::new(policy));
    Arc::new(Wanted::new(&snapshot, pods, false))
}

struct Lab {
    wanted: watch::Sender<Arc<Wanted>>,
    changed: watch::Receiver<u64>,
    telemetry: Arc<Telemetry>,
}

impl Lab {
    fn start(first: Arc<Wanted>) -> Self {
        let (wanted, receiver) = watch::channel(first);
        let sender = watch::Sender::new(0);
        let (changed, telemetry) = (sender.subscribe(), Telemetry::quiet());
        let identities = crate::identity::testing::Root::shared().identities();
        let parts = Parts {
            telemetry: telemetry.clone(),
            flows: Flows::detached(),
            identities,
            hbone_port: 15008,
            changed: sender,
        };
        spawn_local(run(parts, receiver));
        Self { wanted, changed, telemetry }
    }

    fn checks(&self, result: &str) -> u64 {
        self.telemetry.metrics.agent().health_checks.with_label_values(&[result]).get()
    }

    /// Waits for so many more checks of one result.
    async fn more_checks(&self, result: &str, more: u64) {
        let before = self.checks(result);
        until(|| self.checks(result) >= before + more).await;
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        // Real time: the checks' own intervals pass meanwhile.
        sleep(Duration::from_millis(2)).await;
    }
}

fn test(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(Duration::from_secs(60), work).await.unwrap() });
}

fn verdict(port: &ServicePort, at: usize) -> Verdict {
    port.endpoints.all[at].load.health.verdict()
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn an_endpoint_becomes_unhealthy_and_healthy_again_and_wakes_who_waits() {
    test(async {
        let (listener, address) = bind().await;
        let port = testing::service_port("cart", &[address]);
        let mut lab = Lab::start(wanted(&port, Some(&check()), vec![pod()]));
        until(|| verdict(&port, 0) == Verdict::Healthy).await;
        assert!(port.endpoints.health.is_checked() && port.endpoints.health.avoided() == 0);
        drop(listener);
        until(|| verdict(&port, 0) == Verdict::Unhealthy(Failure::Connect)).await;
        assert_eq!(port.endpoints.health.avoided(), 1);
        assert!(lab.checks("connect") >= u64::from(THRESHOLD));
        lab.changed.mark_unchanged();
        let _listener = TcpListener::bind(address).await.unwrap();
        lab.changed.changed().await.unwrap();
        assert_eq!((verdict(&port, 0), port.endpoints.health.avoided()), (Verdict::Healthy, 0));
        assert!(lab.checks("passed") >= 2);
    });
}

#[test]
fn a_check_that_passes_ends_an_ejection() {
    use crate::balance::outlier::{Outcome, ejected, report};
    use crate::policy::{ClusterPolicy, OutlierDetection};
    test(async {
        let (_listener, address) = bind().await;
        let port = testing::service_port("cart", &[address]);
        let outlier = OutlierDetection {
            consecutive_5xx: 1,
            consecutive_gateway: 0,
            consecutive_local_origin: 0,
            split: false,
            codes: Vec::new(),
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(3600),
            max_ejection_percent: 100,
            min_health_percent: 0,
        };
        let policy = ClusterPolicy { outlier: Some(outlier), ..ClusterPolicy::default() };
        let set = &port.endpoints;
        assert!(report(&policy, set, &set.all[0], Outcome::Status(500), clock::now_ns()).is_some());
        assert_eq!(ejected(set, clock::now_ns()), 1);
        let _lab = Lab::start(wanted(&port, Some(&check()), vec![pod()]));
        until(|| ejected(set, clock::now_ns()) == 0).await;
    });
}

#[test]
fn a_change_that_leaves_the_group_alone_keeps_verdicts_and_counts() {
    test(async {
        let (listener, address) = bind().await;
        drop(listener);
        let (port, how) = (testing::service_port("cart", &[address]), check());
        let lab = Lab::start(wanted(&port, Some(&how), vec![pod()]));
        until(|| verdict(&port, 0).is_avoided()).await;
        // Another endpoint comes: what is known of this one stays.
        let (other, second) = bind().await;
        let mut more = testing::service_port("cart", &[address, second]);
        let known = port.endpoints.all[0].clone();
        let all = Arc::get_mut(&mut more).unwrap();
        let at = all.endpoints.all.iter().position(|endpoint| endpoint.addr == known.addr).unwrap();
        all.endpoints.all[at] = known;
        all.endpoints.health = port.endpoints.health.clone();
        lab.wanted.send_replace(wanted(&more, Some(&how), vec![pod()]));
        until(|| verdict(&more, 1 - at) == Verdict::Healthy).await;
        assert!(verdict(&more, at).is_avoided() && more.endpoints.health.avoided() == 1);
        // A changed group goes by what was found until its own first check.
        lab.wanted.send_replace(wanted(&more, Some(&check()), vec![pod()]));
        lab.more_checks("passed", 2).await;
        assert!(verdict(&more, at).is_avoided());
        drop(other);
    });
}

#[test]
fn checks_end_with_their_endpoint_and_with_the_last_captured_pod() {
    test(async {
        let (listener, address) = bind().await;
        let (port, how) = (testing::service_port("cart", &[address]), check());
        let lab = Lab::start(wanted(&port, Some(&how), Vec::new()));
        let empty = testing::service_port("cart", &[]);
        tokio::task::yield_now().await;
        assert!(!port.endpoints.health.is_checked(), "no pod, no check");
        for end in [
            wanted(&empty, Some(&how), vec![pod()]),
            wanted(&port, Some(&how), Vec::new()),
            wanted(&port, None, vec![pod()]),
        ] {
            lab.wanted.send_replace(wanted(&port, Some(&how), vec![pod()]));
            until(|| verdict(&port, 0) == Verdict::Healthy).await;
            lab.wanted.send_replace(end);
            until(|| verdict(&port, 0) == Verdict::Unchecked).await;
            assert!(!port.endpoints.health.is_checked());
        }
        let before = lab.checks("passed");
        // A check that was under way may have arrived; nobody connects after it.
        while timeout(Duration::from_millis(200), listener.accept()).await.is_ok() {}
        assert_eq!(lab.checks("passed"), before);
    });
}

#[test]
fn an_endpoint_that_comes_to_checked_ones_waits_for_its_first_check() {
    test(async {
        let (listener, address) = bind().await;
        drop(listener);
        let (port, how) = (testing::service_port("cart", &[address]), check());
        port.endpoints.health.check(true);
        port.endpoints.health.admit(&port.endpoints.all[0].load.health);
        assert_eq!((verdict(&port, 0), port.endpoints.health.avoided()), (Verdict::Pending, 1));
        let _lab = Lab::start(wanted(&port, Some(&how), vec![pod()]));
        until(|| verdict(&port, 0) != Verdict::Pending).await;
        assert_eq!(verdict(&port, 0), Verdict::Unhealthy(Failure::Connect), "one failure is enough");
        assert_eq!(port.endpoints.health.avoided(), 1);
    });
}
