//! A DestinationRule and what the Service says, to the policy of one port; and what to say about a rule.
//!
//! Defaults are Istio's and Envoy's where a section is given, the agent's own where it isn't.

use std::time::Duration;

use rustls::pki_types::ServerName;

use super::locality::{Label, Localities, Locality, Pattern};
use super::{
    ClusterPolicy, Cookie, HashKey, Keepalive, MeshTls, OutlierDetection, PoolLimits, RetryShare, Unusable,
};
use crate::model::{LoadBalancer, ObjectName, Warning, WarningCode};
use crate::objects::{
    self, ClientTls, ConnectionPool, ConsistentHash, DestinationRule, GoDuration, H2UpgradePolicy,
    HttpCookie, Kind, LoadBalancerSettings, LocalityLbSetting, ObjectKey, Settings, SimpleLb, Subset,
    TlsMode,
};
use crate::tls::{By, Identity, Spec, Trust};

/// What holds without a rule, and what a rule is compiled against.
#[derive(Clone, Debug, Default)]
pub struct Defaults<'a> {
    /// The Service's, or the agent's.
    pub load_balancer: LoadBalancer,
    /// The Service's `sessionAffinity: ClientIP`.
    pub client_ip_affinity: Option<Duration>,
    /// The Service's `trafficDistribution`.
    pub traffic_distribution: Option<&'a str>,
    /// Where the agent is.
    pub here: Locality,
    /// The agent's node.
    pub node: &'a str,
}

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The policy of `port` under `rule`, of the part of it that is one of the rule's subsets if one is given.
pub fn compile(
    rule: Option<&DestinationRule>,
    subset: Option<&Subset>,
    port: u16,
    defaults: &Defaults<'_>,
) -> ClusterPolicy {
    let mut policy = ClusterPolicy {
        load_balancer: defaults.load_balancer,
        client_ip_affinity: defaults.client_ip_affinity,
        localities: distribution(defaults),
        ..ClusterPolicy::default()
    };
    let Some(rule) = rule else { return policy };
    policy.rule = Some(ObjectName::new(rule.namespace(), &rule.metadata.name));
    let Some(settings) = settings(rule, subset, port) else { return policy };
    policy.outlier = settings.outlier_detection.map(outlier);
    policy.rule_balances = settings.load_balancer.is_some();
    if let Some(load_balancer) = settings.load_balancer {
        balance(load_balancer, &mut policy);
    }
    let locality = settings.load_balancer.and_then(|settings| settings.locality_lb_setting.as_ref());
    if locality.is_some() || policy.outlier.is_some() {
        let compiled = localities(locality, policy.outlier.is_some(), defaults);
        policy.localities = compiled.or(policy.localities.take());
    }
    if locality.is_some_and(|locality| locality.enabled == Some(false)) {
        policy.localities = None;
    }
    if let Some(pool) = settings.connection_pool {
        policy.limits = limits(pool);
        policy.over_http2 = pool.http.upgrades();
    }
    policy.limits.retry_share = settings
        .retry_budget
        .map(|budget| RetryShare { thousandths: budget.thousandths(), least: budget.least() });
    policy.mesh_tls = match settings.tls.map(|tls| tls.mode) {
        Some(TlsMode::Disable) => MeshTls::Never,
        Some(TlsMode::IstioMutual) => MeshTls::Always,
        Some(TlsMode::Simple | TlsMode::Mutual) | None => MeshTls::Auto,
    };
    if settings.tls.is_some_and(|tls| tls.unsupported().is_some()) {
        policy.unusable = Some(Unusable::TlsNotOriginated);
    }
    policy
}

/// What connections to `port` of `host` are to be wrapped in under `rule`, if they are. `names` are the ones that the host
/// says itself that its certificates have (ServiceEntry), for rules that say nothing of it.
///
/// # Errors
/// If nothing can be made of it: the server has no name to be asked for and verified by. Nothing may be sent then.
pub fn origination(
    rule: Option<&DestinationRule>,
    subset: Option<&Subset>,
    port: u16,
    host: &str,
    names: &[String],
) -> Result<Option<Spec>, Unusable> {
    let Some(rule) = rule else { return Ok(None) };
    let tls =
        settings(rule, subset, port).and_then(|settings| settings.tls).filter(|tls| tls.is_originated());
    let Some(tls) = tls.filter(|tls| tls.unsupported().is_none()) else { return Ok(None) };
    let server_name = if tls.sni.is_empty() { host } else { &tls.sni };
    let server_name = ServerName::try_from(server_name.to_owned()).map_err(|_| Unusable::TlsNotOriginated)?;
    Ok(Some(Spec {
        by: By::Object(ObjectKey::new(Kind::DestinationRule, Some(rule.namespace()), &rule.metadata.name)),
        server_name,
        names: if tls.subject_alt_names.is_empty() { names } else { &tls.subject_alt_names }.to_vec(),
        trust: trust(tls),
        identity: identity(tls),
    }))
}

/// True if `rule` says whether and how connections to `port` are wrapped, if only that they aren't.
pub fn speaks_of_tls(rule: Option<&DestinationRule>, subset: Option<&Subset>, port: u16) -> bool {
    rule.and_then(|rule| settings(rule, subset, port)).is_some_and(|settings| settings.tls.is_some())
}

/// The path of the settings in `rule` that ask for the files of `spec`, if any still do.
pub fn asked_at(rule: &DestinationRule, spec: &Spec) -> Option<String> {
    let asks = |tls: &ClientTls| {
        let asks = tls.is_originated() && tls.unsupported().is_none();
        asks && trust(tls) == spec.trust && identity(tls) == spec.identity
    };
    let settings = rule.all_settings().into_iter();
    settings.filter(|(_, settings)| settings.tls.is_some_and(asks)).map(|(path, _)| path).next()
}

fn trust(tls: &ClientTls) -> Trust {
    match (tls.insecure_skip_verify, tls.ca_certificates.as_os_str().is_empty()) {
        (true, _) => Trust::Anybody,
        (false, true) => Trust::System,
        (false, false) => Trust::File(tls.ca_certificates.clone()),
    }
}

fn identity(tls: &ClientTls) -> Option<Identity> {
    let (certificate, key) = (tls.client_certificate.clone(), tls.private_key.clone());
    (tls.mode == TlsMode::Mutual).then_some(Identity { certificate, key })
}

fn settings<'a>(rule: &'a DestinationRule, subset: Option<&'a Subset>, port: u16) -> Option<Settings<'a>> {
    match subset {
        Some(subset) => rule.subset_settings(subset, port),
        None => rule.settings(port),
    }
}

fn balance(settings: &LoadBalancerSettings, policy: &mut ClusterPolicy) {
    policy.warmup = settings.warmup().filter(|warmup| !warmup.duration.is_zero());
    match settings.simple {
        Some(SimpleLb::LeastConn | SimpleLb::LeastRequest) => {
            policy.load_balancer = LoadBalancer::LeastRequest
        }
        Some(SimpleLb::Random) => policy.load_balancer = LoadBalancer::Random,
        Some(SimpleLb::RoundRobin) => policy.load_balancer = LoadBalancer::RoundRobin,
        Some(SimpleLb::Passthrough) => policy.passthrough = true,
        Some(SimpleLb::Unspecified) | None => {}
    }
    let Some(hash) = &settings.consistent_hash else { return };
    policy.hash = hash_key(hash);
    policy.client_ip_affinity = None;
    (policy.load_balancer, policy.table_size) = match hash.maglev_size() {
        Some(size) => (LoadBalancer::Maglev, size),
        None => (LoadBalancer::RingHash, hash.ring_size()),
    };
}

fn hash_key(hash: &ConsistentHash) -> Option<HashKey> {
    if hash.use_source_ip {
        return Some(HashKey::SourceIp);
    }
    if let Some(name) = &hash.http_header_name {
        return http::HeaderName::try_from(name).ok().map(HashKey::Header);
    }
    if let Some(cookie) = &hash.http_cookie {
        return Some(HashKey::Cookie(Cookie { name: cookie.name.clone(), attributes: attributes(cookie) }));
    }
    hash.http_query_parameter_name.clone().map(HashKey::Query)
}

/// As Envoy writes them: a lifetime of zero makes a cookie of the client's session.
fn attributes(cookie: &HttpCookie) -> Option<String> {
    let GoDuration(ttl) = cookie.ttl?;
    let mut text = String::new();
    if !ttl.is_zero() {
        text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !cookie.path.is_empty() {
        text.push_str(&format!("; Path={}", cookie.path));
    }
    text.push_str("; HttpOnly");
    for attribute in &cookie.attributes {
        text.push_str(&format!("; {}", attribute.name));
        if !attribute.value.is_empty() {
            text.push_str(&format!("={}", attribute.value));
        }
    }
    Some(text)
}

fn outlier(settings: &objects::OutlierDetection) -> OutlierDetection {
    let or = |duration: Option<GoDuration>, seconds| {
        duration.map_or(Duration::from_secs(seconds), |GoDuration(duration)| duration)
    };
    OutlierDetection {
        consecutive_5xx: settings.consecutive_5xx_errors.unwrap_or(5),
        consecutive_gateway: settings.consecutive_gateway_errors.unwrap_or(0),
        consecutive_local_origin: settings.consecutive_local_origin_failures.unwrap_or(5),
        split: settings.split_external_local_origin_errors,
        codes: settings.outlier_detection_http_error_codes.clone(),
        interval: or(settings.interval, 10),
        base_ejection: or(settings.base_ejection_time, 30),
        max_ejection_percent: match settings.max_ejection_percent {
            0 => 10,
            percent => percent,
        },
        min_health_percent: settings.min_health_percent,
    }
}

fn limits(pool: &ConnectionPool) -> PoolLimits {
    let given = |count: u32| (count > 0).then_some(count);
    let time = |duration: Option<GoDuration>| duration.map(|GoDuration(duration)| duration);
    let (tcp, http) = (&pool.tcp, &pool.http);
    PoolLimits {
        max_connections: given(tcp.max_connections),
        max_pending: given(http.http1_max_pending_requests),
        max_requests: given(http.http2_max_requests),
        max_requests_per_connection: given(http.max_requests_per_connection),
        max_streams: given(http.max_concurrent_streams),
        max_retries: given(http.max_retries),
        retry_share: None,
        max_connection_duration: time(tcp.max_connection_duration),
        connect_timeout: time(tcp.connect_timeout),
        tcp_idle: time(tcp.idle_timeout),
        http_idle: time(http.idle_timeout).filter(|idle| !idle.is_zero()),
        keepalive: tcp.tcp_keepalive.as_ref().map(|keepalive| Keepalive {
            time: time(keepalive.time),
            interval: time(keepalive.interval),
            probes: given(keepalive.probes),
        }),
    }
}

/// Istio's mesh default is "enabled": outlier detection alone brings failover with it.
fn localities(
    settings: Option<&LocalityLbSetting>,
    detects: bool,
    defaults: &Defaults<'_>,
) -> Option<Localities> {
    let here = &defaults.here;
    if let Some(settings) = settings
        && !settings.distribute.is_empty()
    {
        let from = settings.distribute.iter().find(|share| Pattern::new(&share.from).matches(here))?;
        let mut shares: Vec<_> = from.to.iter().map(|(to, weight)| (Pattern::new(to), *weight)).collect();
        // The more is said, the sooner it is asked; the map's order is alphabetical.
        shares.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.precision()));
        return Some(Localities::Distribute(shares));
    }
    if !detects {
        return None;
    }
    if let Some(settings) = settings
        && !settings.failover_priority.is_empty()
    {
        return Some(Localities::Labels(labels(&settings.failover_priority, defaults)));
    }
    if here.is_unknown() {
        return None;
    }
    let to = settings.and_then(|settings| settings.failover.iter().find(|f| f.from == here.region));
    Some(Localities::Failover { from: here.clone(), to: to.map(|failover| failover.to.clone()) })
}

/// Up to the first one that compares something of the client's that isn't the node's.
fn labels(priority: &[String], defaults: &Defaults<'_>) -> Vec<Label> {
    priority.iter().map_while(|entry| label(entry, defaults)).collect()
}

fn label(entry: &str, defaults: &Defaults<'_>) -> Option<Label> {
    let (key, value) = match entry.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (entry, None),
    };
    let or = |own: &str| value.unwrap_or(own).to_owned();
    match key {
        REGION => Some(Label::Region(or(&defaults.here.region))),
        ZONE => Some(Label::Zone(or(&defaults.here.zone))),
        SUBZONE => Some(Label::Subzone(or(&defaults.here.subzone))),
        HOSTNAME => Some(Label::Node(or(defaults.node))),
        _ => value.map(|value| Label::Pod(key.to_owned(), value.to_owned())),
    }
}

/// Service `trafficDistribution` (Kubernetes; KEP-3015): near endpoints while there are any.
fn distribution(defaults: &Defaults<'_>) -> Option<Localities> {
    if defaults.here.zone.is_empty() {
        return None;
    }
    let zone = Label::Zone(defaults.here.zone.clone());
    match defaults.traffic_distribution? {
        "PreferClose" | "PreferSameZone" => Some(Localities::Labels(vec![zone])),
        "PreferSameNode" => Some(Localities::Labels(vec![zone, Label::Node(defaults.node.to_owned())])),
        _ => None,
    }
}

/// What of `rule` has no effect, or not the one that it asks for.
pub fn warnings(rule: &DestinationRule) -> Vec<Warning> {
    let key = crate::objects::ObjectKey::new(
        crate::objects::Kind::DestinationRule,
        Some(rule.namespace()),
        &rule.metadata.name,
    );
    let mut warnings: Vec<_> = rule.notes.iter().map(|note| note.warning(&key, "DestinationRule")).collect();
    let mut unsupported = |field: String, message: &str| {
        warnings.push(Warning::new(WarningCode::UnsupportedFeature, &key, field, message));
    };
    for (path, settings) in rule.all_settings() {
        let Some(load_balancer) = settings.load_balancer else { continue };
        if let Some(entry) = unsupported_label(load_balancer) {
            let message = format!(
                "{entry} compares labels of client pods, which is not supported by this version: it and what follows it \
                 are left out; write LABEL=VALUE, or a label of the topology"
            );
            unsupported(format!("{path}.loadBalancer.localityLbSetting.failoverPriority"), &message);
        }
    }
    for (path, settings) in rule.all_settings() {
        let Some(http) = settings.connection_pool.map(|pool| &pool.http) else { continue };
        if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
            warnings.push(Warning::new(
                WarningCode::UnsupportedValue,
                &key,
                format!("{path}.connectionPool.http.h2UpgradePolicy"),
                "UPGRADE has no effect beside useClientProtocol: the client's HTTP version is kept; take one of them out",
            ));
        }
    }
    warnings
}

fn unsupported_label(settings: &LoadBalancerSettings) -> Option<&String> {
    let entries = &settings.locality_lb_setting.as_ref()?.failover_priority;
    entries.iter().find(|entry| label(entry, &Defaults::default()).is_none())
}

#[cfg(test)]
mod tests;
