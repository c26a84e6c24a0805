//! W3C Baggage as HBONE has it: what a peer says of the workload that it speaks for, under OpenTelemetry's names.
//!
//! Written for what goes out by `crate::http2`, read from what came in by `inbound`. Pure. Anybody can write anything into it, so that it is
//! never asked by a policy: it only names, in metrics and logs, a client whose address nothing knows, and no more of it than fits to the
//! identity that the client has proven.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::identity::SpiffeId;
use crate::model::{Enrolment, FailMode, ObjectName, Workload};
use crate::objects::Labels;
use crate::policy::Locality;

/// The header.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// Members that are looked at (W3C Baggage, 3.3.2: at least 64 have to be passed on).
const MOST_MEMBERS: usize = 64;
/// Bytes of a name: those of a DNS name.
const LONGEST: usize = 253;
/// Who runs a workload, by whose kind its name is called. Istio's ztunnel knows these.
const KINDS: [&str; 4] = ["deployment", "cronjob", "job", "pod"];

/// What is known of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.deployment.name` or that of another kind.
    pub workload: Option<String>,
    /// `service.name`: the canonical service.
    pub service: Option<String>,
    /// `service.version`: its revision.
    pub version: Option<String>,
}

/// What is told of `workload`, of this cluster and at this place.
pub fn value(workload: &Workload, cluster: &str, place: &Locality) -> Option<HeaderValue> {
    let kind = if workload.workload_name == workload.name.name { "pod" } else { "deployment" };
    let name = format!("k8s.{kind}.name");
    let members = [
        ("k8s.cluster.name", cluster),
        ("k8s.namespace.name", &workload.name.namespace),
        (&name, &workload.workload_name),
        ("service.name", &workload.canonical_name),
        ("service.version", &workload.canonical_revision),
        ("cloud.region", &place.region),
        ("cloud.availability_zone", &place.zone),
    ];
    let mut text = String::with_capacity(256);
    for (key, value) in members.into_iter().filter(|(_, value)| is_name(value)) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{key}={value}");
    }
    HeaderValue::try_from(text).ok()
}

/// What a peer says of itself. What isn't spelled as a name is left out.
pub fn read(headers: &HeaderMap) -> Baggage {
    let mut baggage = Baggage::default();
    let texts = headers.get_all(BAGGAGE).into_iter().filter_map(|value| value.to_str().ok());
    for member in texts.flat_map(|text| text.split(',')).take(MOST_MEMBERS) {
        // What follows a semicolon are properties.
        let member = member.split(';').next().unwrap_or_default();
        let Some((key, value)) = member.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        let field = match key {
            "k8s.namespace.name" => &mut baggage.namespace,
            "service.name" => &mut baggage.service,
            "service.version" => &mut baggage.version,
            _ if is_workload(key) => &mut baggage.workload,
            _ => continue,
        };
        *field = is_name(value).then(|| value.to_owned());
    }
    baggage
}

impl Baggage {
    /// The workload for metrics and logs, for a peer that has proven to be `peer`. None if it says that it is elsewhere than that.
    pub fn workload(self, peer: &SpiffeId) -> Option<Workload> {
        let (namespace, account) = (peer.namespace()?, peer.service_account()?);
        if self.namespace.as_deref().is_some_and(|said| said != namespace) {
            return None;
        }
        let workload = self.workload?;
        let service = self.service.unwrap_or_else(|| workload.clone());
        let version = self.version.unwrap_or_else(|| "latest".to_owned());
        Some(Workload {
            name: ObjectName::new(namespace, &*workload),
            uid: None,
            node: String::new(),
            service_account: account.to_owned(),
            app: service.clone(),
            version: version.clone(),
            canonical_name: service,
            canonical_revision: version,
            workload_name: workload,
            labels: Labels::default(),
            addresses: Vec::new(),
            netns: None,
            enrolment: Enrolment::NotRequested,
            fail_mode: FailMode::Closed,
            hbone: false,
            redirected: false,
            host_network: false,
            ports: Vec::new(),
            probes: Vec::new(),
        })
    }
}

fn is_workload(key: &str) -> bool {
    let kind = key.strip_prefix("k8s.").and_then(|rest| rest.strip_suffix(".name"));
    kind.is_some_and(|kind| KINDS.contains(&kind))
}

/// True of what can stand as it is, and is a label's value.
fn is_name(value: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (1..=LONGEST).contains(&value.len()) && value.chars().all(fits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proxy::testing;

    fn of(texts: &[&'static str]) -> Baggage {
        read(&texts.iter().map(|text| (BAGGAGE, HeaderValue::from_static(text))).collect())
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let own = Workload { workload_name: "shop-cart".into(), ..testing::workload() };
        let place = Locality { region: "r1".into(), zone: "r1-a".into(), subzone: "x".into() };
        let value = value(&own, "Kubernetes", &place).unwrap();
        let expected = "k8s.cluster.name=Kubernetes,k8s.namespace.name=test,k8s.deployment.name=shop-cart,\
                        service.name=client,service.version=v1,cloud.region=r1,cloud.availability_zone=r1-a";
        assert_eq!(value, expected);
        let said = read(&HeaderMap::from_iter([(BAGGAGE, value)]));
        let told = said.workload(&SpiffeId::new("cluster.local", "test", "web")).unwrap();
        assert_eq!((&*told.workload_name, &*told.app, &*told.version), ("shop-cart", "client", "v1"));
        assert_eq!((&*told.name.namespace, &*told.service_account), ("test", "web"));
    }

    #[test]
    fn what_is_unknown_is_left_out_and_a_bare_pod_is_called_one() {
        let own = Workload { canonical_name: String::new(), version: String::new(), ..testing::workload() };
        let value = value(&own, "", &Locality::default()).unwrap();
        assert_eq!(value, "k8s.namespace.name=test,k8s.pod.name=client,service.version=v1");
    }

    #[test]
    fn several_fields_empty_values_and_properties_are_read_as_the_standard_has_them() {
        let said = of(&[
            "k8s.namespace.name=shop, service.name = cart;prop=1",
            "k8s.job.name=night,service.version=",
        ]);
        assert_eq!((said.namespace.as_deref(), said.service.as_deref()), (Some("shop"), Some("cart")));
        assert_eq!((said.workload.as_deref(), said.version), (Some("night"), None));
        assert_eq!(of(&["nothing", "=,==,;", "other=1"]), Baggage::default());
    }

    #[test]
    fn nobody_is_called_what_its_identity_does_not_allow() {
        let peer = SpiffeId::new("cluster.local", "shop", "web");
        let told = |text| of(&[text]).workload(&peer);
        assert!(told("k8s.namespace.name=bank,k8s.deployment.name=vault").is_none());
        assert!(told("k8s.namespace.name=shop").is_none(), "it has no name");
        assert!(told("k8s.namespace.name=shop,k8s.deployment.name=w\u{22}x").is_none());
        assert_eq!(told("k8s.deployment.name=web").unwrap().name, ObjectName::new("shop", "web"));
        let other = SpiffeId::parse("spiffe://cluster.local/machine/7").unwrap();
        assert!(of(&["k8s.deployment.name=web"]).workload(&other).is_none());
    }

    #[test]
    fn no_more_is_read_than_is_bounded() {
        let long: HeaderValue = format!("k8s.deployment.name={}", "x".repeat(254)).try_into().unwrap();
        assert_eq!(read(&HeaderMap::from_iter([(BAGGAGE, long)])), Baggage::default());
        let many = format!("{}k8s.deployment.name=web", "a=b,".repeat(MOST_MEMBERS));
        assert_eq!(read(&HeaderMap::from_iter([(BAGGAGE, many.try_into().unwrap())])), Baggage::default());
    }
}
