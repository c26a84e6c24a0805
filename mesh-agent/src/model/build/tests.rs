//! What objects make, what a change leaves alone, and what is said about objects that don't fit together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod addresses;
mod authorization;
mod backend_tls;
mod entries;
mod needs;
mod peers;
mod rules;
mod subsets;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::addr::OrigDst;
use crate::model::{AppProtocol, Dump, Enrolment, LoadBalancer, Netns, Target};
use crate::source::{Directory, Touched};

/// A directory of one file and the builder behind it.
struct World {
    dir: tempfile::TempDir,
    directory: Directory,
    builder: Builder,
}

impl World {
    fn new(text: &str) -> (Self, Arc<Snapshot>) {
        let mut world = Self::with(BuildOptions { node: "node-a".into(), ..BuildOptions::default() });
        let snapshot = world.write(text);
        (world, snapshot)
    }

    fn with(options: BuildOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        Self { dir, directory, builder: Builder::new(options) }
    }

    fn write(&mut self, text: &str) -> Arc<Snapshot> {
        std::fs::write(self.dir.path().join("a.yaml"), text).unwrap();
        self.builder.apply(&self.directory.scan(&Touched::All, &BTreeSet::new()))
    }

    fn warnings(&self) -> Vec<String> {
        let mut all = self.directory.warnings();
        all.extend(self.builder.warnings(|key| self.directory.origin(key)));
        let dir = self.dir.path().display().to_string();
        all.iter().map(|warning| warning.to_string().replace(&dir, "")).collect()
    }
}

fn namespace(name: &str, mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{mesh-agent.dev/dataplane-mode: {mode}}}}}\n"
    )
}

fn pod(name: &str, ip: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  labels: {{app: {name}}}\n  annotations: {{mesh-agent.dev/netns: /run/netns/{name}}}\nspec: {{nodeName: node-a{extra}}}\nstatus: {{podIP: {ip}}}\n"
    )
}

fn service(name: &str, vip: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: {vip}, ports: [{ports}]}}\n"
    )
}

fn slice(name: &str, service: &str, endpoints: &[(&str, &str)]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(ip, conditions)| format!("{{addresses: [{ip}], conditions: {{{conditions}}}}}"))
        .collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

const HTTP: &str = "{name: http, port: 80}";

fn vip(snapshot: &Snapshot, addr: &str) -> Arc<ServicePort> {
    match snapshot.resolve(OrigDst::from(addr.parse::<std::net::SocketAddr>().unwrap())) {
        Target::Service(port) => port,
        other => panic!("{addr}: {other:?}"),
    }
}

fn addresses(endpoints: &[Arc<crate::model::Endpoint>]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect()
}

fn workload<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Workload> {
    snapshot.workloads.get(&ObjectName::new("shop", name)).unwrap()
}

#[test]
fn the_example_resolves_as_its_readme_says() {
    let text = [
        namespace("shop", "enabled"),
        pod("web", "10.1.0.1", ""),
        pod("cart", "10.1.0.2", ", serviceAccountName: cart"),
        service("cart", "10.96.0.10", HTTP),
        slice("cart-1", "cart", &[("10.1.0.2", "ready: true"), ("10.1.0.9", "ready: false")]),
    ];
    let (world, snapshot) = World::new(&text.concat());
    assert_eq!(world.warnings(), Vec::<String>::new());
    assert_eq!(snapshot.generation, 1);
    let port = vip(&snapshot, "10.96.0.10:80");
    assert_eq!((port.protocol, port.policy.load_balancer), (AppProtocol::Http, LoadBalancer::PeakEwma));
    assert_eq!(port.service.host, "cart.shop.svc.cluster.local");
    assert_eq!(addresses(&port.endpoints.available), ["10.1.0.2:8080"]);
    assert_eq!(addresses(&port.endpoints.all), ["10.1.0.2:8080", "10.1.0.9:8080"]);
    assert!(Arc::ptr_eq(port.endpoints.all[0].workload.as_ref().unwrap(), workload(&snapshot, "cart")));
    match snapshot.resolve(OrigDst::new("10.1.0.2".parse().unwrap(), 8080)) {
        Target::Workload(found, Some(behind)) => {
            assert_eq!(found.service_account, "cart");
            assert!(Arc::ptr_eq(&behind, &port));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(snapshot.enrolled().count(), 2);
}

#[test]
fn an_endpoint_without_a_pod_is_known_by_its_port() {
    let text = [
        service("cart", "10.96.0.10", HTTP),
        slice("cart-1", "cart", &[("10.1.0.9", "ready: true"), ("10.1.0.8", "ready: false")]),
    ];
    let (_, snapshot) = World::new(&text.concat());
    let resolve = |ip: &str, port| snapshot.resolve(OrigDst::new(ip.parse().unwrap(), port));
    let port = vip(&snapshot, "10.96.0.10:80");
    for ip in ["10.1.0.9", "10.1.0.8"] {
        match resolve(ip, 8080) {
            Target::Endpoint(behind) => assert!(Arc::ptr_eq(&behind, &port)),
            other => panic!("{ip}: {other:?}"),
        }
        assert_eq!(resolve(ip, 8080).protocol(), AppProtocol::Http);
        assert!(matches!(resolve(ip, 8081), Target::Unknown));
    }
}

#[test]
fn a_change_of_one_service_leaves_every_other_arc_and_all_load_figures_alone() {
    let base = |second: &str| {
        [
            pod("web", "10.1.0.1", ""),
            service("cart", "10.96.0.10", HTTP),
            slice("cart-1", "cart", &[("10.1.0.1", ""), ("10.1.0.2", second)]),
            service("other", "10.96.0.11", HTTP),
            slice("other-1", "other", &[("10.1.0.1", "")]),
        ]
        .concat()
    };
    let (mut world, before) = World::new(&base("ready: true"));
    let cart = vip(&before, "10.96.0.10:80");
    cart.endpoints.all[1].load.in_flight.store(7, Relaxed);
    cart.endpoints.next.store(3, Relaxed);

    let after = world.write(&base("ready: false, serving: true, terminating: true"));
    let changed = vip(&after, "10.96.0.10:80");
    assert_eq!(after.generation, 2);
    assert!(!Arc::ptr_eq(&cart, &changed));
    assert!(Arc::ptr_eq(&cart.service, &changed.service));
    assert!(Arc::ptr_eq(&cart.endpoints.all[0], &changed.endpoints.all[0]));
    assert!(Arc::ptr_eq(&cart.endpoints.all[1].load, &changed.endpoints.all[1].load));
    assert_eq!(changed.endpoints.next.load(Relaxed), 3);
    assert_eq!(addresses(&changed.endpoints.available), ["10.1.0.1:8080"]);
    assert!(Arc::ptr_eq(&vip(&before, "10.96.0.11:80"), &vip(&after, "10.96.0.11:80")));
    assert!(Arc::ptr_eq(workload(&before, "web"), workload(&after, "web")));

    let same =
        world.write(&format!("# a comment\n{}", base("ready: false, serving: true, terminating: true")));
    assert!(Arc::ptr_eq(&after, &same));
}

#[test]
fn a_pod_that_changes_is_seen_through_its_services_endpoints() {
    let rest = [service("cart", "10.96.0.10", HTTP), slice("cart-1", "cart", &[("10.1.0.2", "")])].concat();
    let (mut world, snapshot) = World::new(&rest);
    assert!(vip(&snapshot, "10.96.0.10:80").endpoints.all[0].workload.is_none());
    let load = vip(&snapshot, "10.96.0.10:80").endpoints.all[0].load.clone();
    let snapshot = world.write(&format!("{rest}{}", pod("cart", "10.1.0.2", "")));
    let endpoint = vip(&snapshot, "10.96.0.10:80").endpoints.all[0].clone();
    assert_eq!(endpoint.workload.as_ref().unwrap().name.name, "cart");
    assert!(Arc::ptr_eq(&endpoint.load, &load));
    let snapshot = world.write(&rest);
    assert!(vip(&snapshot, "10.96.0.10:80").endpoints.all[0].workload.is_none());
}

#[test]
fn conditions_decide_which_endpoints_take_new_connections() {
    fn check(endpoints: &[(&str, &str)], want: &[&str]) {
        let text = [service("cart", "10.96.0.10", HTTP), slice("cart-1", "cart", endpoints)].concat();
        let (_world, snapshot) = World::new(&text);
        assert_eq!(addresses(&vip(&snapshot, "10.96.0.10:80").endpoints.available), want, "{endpoints:?}");
    }
    let gone = "ready: false, serving: true, terminating: true";
    check(&[("10.1.0.1", ""), ("10.1.0.2", "ready: false")], &["10.1.0.1:8080"]);
    check(&[("10.1.0.1", "ready: null"), ("10.1.0.2", gone)], &["10.1.0.1:8080"]);
    check(&[("10.1.0.1", "ready: false"), ("10.1.0.2", gone)], &["10.1.0.2:8080"]);
    check(&[("10.1.0.1", "ready: false, serving: true")], &[]);
    check(&[("10.1.0.1", "ready: false, terminating: true")], &[]);
    check(&[], &[]);
}

#[test]
fn slices_of_a_service_are_merged_and_an_address_counts_once() {
    let text = [
        service("cart", "10.96.0.10", HTTP),
        slice("cart-2", "cart", &[("10.1.0.1", "ready: true"), ("10.1.0.3", "")]),
        slice("cart-1", "cart", &[("10.1.0.1", "ready: false"), ("10.1.0.2", "")]),
    ];
    let (_world, snapshot) = World::new(&text.concat());
    let available = addresses(&vip(&snapshot, "10.96.0.10:80").endpoints.available);
    assert_eq!(available, ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]);
}

#[test]
fn labels_decide_enrolment_and_the_pods_own_wins() {
    fn check(namespace_mode: &str, pod_mode: Option<&str>, want: bool) {
        let mut pod = pod("web", "10.1.0.1", "");
        if let Some(mode) = pod_mode {
            pod = pod
                .replace("{app: web}", &format!("{{app: web, mesh-agent.dev/dataplane-mode: \"{mode}\"}}"));
        }
        let (_world, snapshot) = World::new(&[namespace("shop", namespace_mode), pod].concat());
        assert_eq!(workload(&snapshot, "web").is_enrolled(), want, "{namespace_mode} {pod_mode:?}");
    }
    check("enabled", None, true);
    check("none", None, false);
    check("enabled", Some("none"), false);
    check("none", Some("enabled"), true);
    check("enabled", Some("yes"), true);
    check("yes", None, false);
}

#[test]
fn a_namespace_that_changes_reaches_its_pods() {
    let pod = pod("web", "10.1.0.1", "");
    let (mut world, snapshot) = World::new(&[namespace("shop", "none"), pod.clone()].concat());
    assert_eq!(snapshot.enrolled().count(), 0);
    assert_eq!(world.write(&[namespace("shop", "enabled"), pod.clone()].concat()).enrolled().count(), 1);
    assert_eq!(world.write(&pod).enrolled().count(), 0);
}

#[test]
fn pods_that_cannot_be_captured_are_refused_by_name_and_reason() {
    fn check(pod: String, reason: &str, code: &str) {
        let (world, snapshot) = World::new(&[namespace("shop", "enabled"), pod].concat());
        let enrolment = snapshot.workloads.get(&ObjectName::new("shop", "web")).unwrap().enrolment.clone();
        assert!(matches!(&enrolment, Enrolment::Refused(why) if why.contains(reason)), "{enrolment:?}");
        let warnings = world.warnings();
        assert!(warnings.iter().any(|w| w.starts_with(code) && w.contains("Pod shop/web")), "{warnings:?}");
    }
    let web = || pod("web", "10.1.0.1", "");
    check(pod("web", "10.1.0.1", ", hostNetwork: true"), "host's network", "MESH0117");
    check(
        web().replace("mesh-agent.dev/netns: /run/netns/web", ""),
        "names no network namespace",
        "MESH0116",
    );
    check(web().replace("/run/netns/web", "web"), "absolute path", "MESH0116");
    check(
        [pod("a", "10.1.0.2", "").replace("/netns/a", "/netns/web"), web()].concat(),
        "Pod shop/a too",
        "MESH0120",
    );
}

#[test]
fn a_pod_of_another_node_needs_no_namespace_and_is_not_captured_here() {
    let pod = pod("web", "10.1.0.1", "")
        .replace("node-a", "node-b")
        .replace("mesh-agent.dev/netns: /run/netns/web", "");
    let (world, snapshot) = World::new(&[namespace("shop", "enabled"), pod].concat());
    assert_eq!(snapshot.enrolled().count(), 0);
    assert!(workload(&snapshot, "web").is_enrolled());
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn a_pod_of_an_api_server_is_known_by_its_uid_and_a_static_one_not_at_all() {
    let plain = "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: shop\n  uid: u-1\n  annotations: {mesh-agent.dev/netns: /run/netns/web}\nspec: {nodeName: node-a}\n";
    let build = |pod: &str| {
        let options =
            BuildOptions { node: "node-a".into(), netns_annotation: false, ..BuildOptions::default() };
        let mut world = World::with(options);
        let snapshot = world.write(&[&namespace("shop", "enabled"), pod].concat());
        (snapshot, world.warnings())
    };
    // Scheduled, without an address yet: its first packets are to be captured, too.
    let (snapshot, warnings) = build(plain);
    let web = workload(&snapshot, "web");
    assert_eq!((&web.netns, web.is_enrolled()), (&Some(Netns::Uid("u-1".into())), true));
    assert_eq!(warnings, Vec::<String>::new());
    let (snapshot, _) = build(&plain.replace("node-a", "node-b"));
    assert_eq!(workload(&snapshot, "web").netns, None);
    for node in ["node-a", "node-b"] {
        let mirror = plain.replace("annotations: {", "annotations: {kubernetes.io/config.mirror: abc, ");
        let (snapshot, warnings) = build(&mirror.replace("node-a", node));
        let enrolment = &workload(&snapshot, "web").enrolment;
        assert!(matches!(enrolment, Enrolment::Refused(why) if why.contains("static pod")), "{enrolment:?}");
        assert!(warnings.iter().any(|w| w.starts_with("MESH0116")), "{warnings:?}");
    }
}

#[test]
fn a_pod_made_again_under_its_name_is_another() {
    let of =
        |uid: &str| pod("web", "10.1.0.1", "").replace("  name: web", &format!("  name: web\n  uid: {uid}"));
    let (mut world, first) = World::new(&of("a-1"));
    let name = ObjectName::new("shop", "web");
    assert_eq!(first.workloads[&name].uid.as_deref(), Some("a-1"));
    let second = world.write(&of("a-2"));
    assert_eq!(second.workloads[&name].uid.as_deref(), Some("a-2"));
    assert!(second.generation > first.generation);
    assert_eq!(world.write(&of("''")).workloads[&name].uid, None);
}

#[test]
fn a_pod_that_ended_gives_its_address_back() {
    let ended = pod("web", "10.1.0.1", "").replace("podIP", "phase: Succeeded, podIP");
    let (world, snapshot) = World::new(&[ended, pod("web-2", "10.1.0.1", "")].concat());
    assert_eq!(snapshot.workload_at("10.1.0.1".parse().unwrap()).unwrap().name.name, "web-2");
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn what_does_not_fit_together_is_named() {
    fn check(text: &[String], want: &[&str]) {
        let (world, _) = World::new(&text.concat());
        let warnings = world.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in want {
            assert!(warnings[0].contains(part), "{:?} lacks {part:?}", warnings[0]);
        }
    }
    check(
        &[slice("a-1", "a", &[])],
        &["MESH0113", "/a.yaml:2", "EndpointSlice shop/a-1", "no Service shop/a"],
    );
    check(&[slice("a-1", "\"\"", &[])], &["MESH0113", "add the label"]);
    check(
        &[service("b", "10.96.0.1", HTTP), service("a", "10.96.0.1", HTTP)],
        &[
            "MESH0114",
            "/a.yaml:2",
            "Service shop/b",
            "spec.clusterIPs",
            "10.96.0.1 port 80 already belongs to Service shop/a",
        ],
    );
    check(
        &[pod("b", "10.1.0.1", ""), pod("a", "10.1.0.1", "")],
        &["MESH0115", "Pod shop/b", "status.podIPs", "already belongs to Pod shop/a"],
    );
    check(
        &[service("a", "10.96.0.1", "{name: x, port: 1, appProtocol: smtp}")],
        &["MESH0118", "appProtocol", "smtp"],
    );
    check(
        &[service("a", "10.96.0.1", HTTP).replace(
            "namespace: shop",
            "namespace: shop, annotations: {mesh-agent.dev/load-balancer: best}",
        )],
        &["MESH0118", "mesh-agent.dev/load-balancer", "PEAK_EWMA is used"],
    );
    check(
        &[service("a", "10.96.0.1", HTTP).replace(
            "namespace: shop",
            "namespace: shop, annotations: {mesh-agent.dev/trace-sampling: most}",
        )],
        &["MESH0118", "mesh-agent.dev/trace-sampling", "from 0 to 1", "as the agent's setting says"],
    );
    check(
        &[pod("a", "10.1.0.1", "")
            .replace("annotations: {", "annotations: {mesh-agent.dev/fail-mode: shut, ")],
        &["MESH0118", "mesh-agent.dev/fail-mode", "taken as closed"],
    );
}

#[test]
fn a_service_says_how_many_of_its_requests_are_traced() {
    let annotated = service("cart", "10.96.0.1", HTTP)
        .replace("namespace: shop", "namespace: shop, annotations: {mesh-agent.dev/trace-sampling: '0.5'}");
    let (world, snapshot) = World::new(&[annotated, service("plain", "10.96.0.2", HTTP)].concat());
    assert_eq!(world.warnings(), Vec::<String>::new());
    let ratio = |at: &str| vip(&snapshot, at).service.trace_sampling;
    assert_eq!((ratio("10.96.0.1:80"), ratio("10.96.0.2:80")), ("0.5".parse().ok(), None));
}

#[test]
fn a_virtual_address_leads_to_endpoints_of_its_own_family_first() {
    let dual =
        service("cart", "10.96.0.1", HTTP).replace("ports:", "clusterIPs: [10.96.0.1, 'fd00:96::1'], ports:");
    let v4 = |endpoints: &[(&str, &str)]| slice("cart-4", "cart", endpoints);
    let v6 = |endpoints: &[(&str, &str)]| {
        slice("cart-6", "cart", endpoints)
            .replace("addressType: IPv4", "addressType: IPv6")
            .replace("[fd", "['fd")
            .replace("], cond", "'], cond")
    };
    let steady = v4(&[("10.1.0.1", "ready: true"), ("10.1.0.2", "ready: false")]);
    let (mut world, first) =
        World::new(&[dual.clone(), steady.clone(), v6(&[("fd00::1", "ready: true")])].concat());
    assert_eq!(world.warnings(), Vec::<String>::new());
    let (four, six) = (vip(&first, "10.96.0.1:80"), vip(&first, "[fd00:96::1]:80"));
    assert_eq!(addresses(&four.endpoints.all), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(addresses(&four.endpoints.available), ["10.1.0.1:8080"]);
    assert_eq!(addresses(&six.endpoints.all), ["[fd00::1]:8080"]);
    // By their own address, and for display, both are there.
    let merged = &first.services.get(&ObjectName::new("shop", "cart")).unwrap().ports[0];
    assert_eq!(addresses(&merged.endpoints.available), ["10.1.0.1:8080", "[fd00::1]:8080"]);
    assert!(
        Arc::ptr_eq(&merged.endpoints.all[0].load, &four.endpoints.all[0].load),
        "one endpoint, one load"
    );
    assert!(Arc::ptr_eq(first.by_endpoint.get(&six.endpoints.all[0].addr).unwrap(), merged));

    // A change of one family leaves the other alone; terminating ones stand in for ready ones family by family.
    let second = world.write(
        &[dual.clone(), steady.clone(), v6(&[("fd00::1", "ready: false, serving: true, terminating: true")])]
            .concat(),
    );
    assert!(Arc::ptr_eq(&vip(&second, "10.96.0.1:80"), &four));
    let six = vip(&second, "[fd00:96::1]:80");
    assert_eq!(addresses(&six.endpoints.available), ["[fd00::1]:8080"]);

    // A family without any endpoint is served by the other's.
    let third = world.write(&[dual, steady].concat());
    assert_eq!(addresses(&vip(&third, "[fd00:96::1]:80").endpoints.available), ["10.1.0.1:8080"]);
    assert!(Arc::ptr_eq(&vip(&third, "10.96.0.1:80"), &four));
    let fourth = world.write("");
    assert_eq!(fourth.vips.size(), 0);
}

#[test]
fn duplicate_vips_heal_when_one_service_goes() {
    let (a, b) = (service("a", "10.96.0.1", HTTP), service("b", "10.96.0.1", HTTP));
    let (mut world, snapshot) = World::new(&[b.clone(), a].concat());
    assert_eq!(vip(&snapshot, "10.96.0.1:80").service.name.name, "a");
    let snapshot = world.write(&b);
    assert_eq!(vip(&snapshot, "10.96.0.1:80").service.name.name, "b");
    assert_eq!(world.warnings(), Vec::<String>::new());
    let snapshot = world.write("");
    assert_eq!((snapshot.vips.size(), snapshot.by_endpoint.size(), snapshot.services.size()), (0, 0, 0));
}

#[test]
fn a_slice_without_its_service_heals_when_the_service_comes() {
    let slice = slice("a-1", "a", &[("10.1.0.1", "")]);
    let (mut world, snapshot) = World::new(&slice);
    assert_eq!(snapshot.services.size(), 0);
    let snapshot = world.write(&[service("a", "10.96.0.1", HTTP), slice].concat());
    assert_eq!(vip(&snapshot, "10.96.0.1:80").endpoints.available.len(), 1);
    assert_eq!(world.warnings(), Vec::<String>::new());
}

#[test]
fn a_dump_reads_back_as_it_was_written() {
    let text = [
        namespace("shop", "enabled"),
        pod("web", "10.1.0.1", ""),
        pod("host", "10.1.0.5", ", hostNetwork: true"),
        service("cart", "10.96.0.10", HTTP),
        slice("cart-1", "cart", &[("10.1.0.1", "")]),
    ];
    let (world, snapshot) = World::new(&text.concat());
    let dump = Dump::new(&snapshot, &world.builder.warnings(|_| None));
    let json = serde_json::to_string(&dump).unwrap();
    assert_eq!(serde_json::from_str::<Dump>(&json).unwrap(), dump);
    assert_eq!(dump.services[0].ports[0].endpoints[0].workload.as_ref().unwrap().name, "web");
}

mod filters;
mod policies;
mod routes;
