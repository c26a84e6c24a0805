//! The fields of a DestinationRule: which are read, and what happens in place of those that aren't.
//!
//! From `networking/v1alpha3/destination_rule.proto` of istio/api. docs/destinationrule.md has a row for each.

use super::super::shape::Shape::{self, Fields, List, Read, Unsupported};

const NOT_ORIGINATED: Shape = Unsupported(
    "with mode SIMPLE or MUTUAL connections to the host are REFUSED, as they would be less protected without it",
);
const COOKIE: Shape = Fields(&[
    ("name", Read),
    ("path", Read),
    ("ttl", Read),
    ("attributes", List(&Fields(&[("name", Read), ("value", Read)]))),
]);
const DEPRECATED: &str =
    "it is deprecated and has no effect: use consecutive5xxErrors or consecutiveGatewayErrors";

/// `spec`.
pub(super) const SPEC: Shape = Fields(&[
    ("host", Read),
    ("trafficPolicy", TRAFFIC_POLICY),
    ("subsets", List(&Fields(&[("name", Read), ("labels", Read), ("trafficPolicy", TRAFFIC_POLICY)]))),
    ("exportTo", Read),
    ("workloadSelector", Fields(&[("matchLabels", Read)])),
]);

const TRAFFIC_POLICY: Shape = Fields(&[
    ("loadBalancer", LOAD_BALANCER),
    ("connectionPool", CONNECTION_POOL),
    ("outlierDetection", OUTLIER_DETECTION),
    ("tls", TLS),
    (
        "portLevelSettings",
        List(&Fields(&[
            ("port", Fields(&[("number", Read)])),
            ("loadBalancer", LOAD_BALANCER),
            ("connectionPool", CONNECTION_POOL),
            ("outlierDetection", OUTLIER_DETECTION),
            ("tls", TLS),
        ])),
    ),
    ("tunnel", Unsupported("connections go to the host's endpoints without a tunnel")),
    ("proxyProtocol", Unsupported("connections begin without a PROXY protocol header")),
    ("retryBudget", Fields(&[("percent", Read), ("minRetryConcurrency", Read)])),
]);

const LOAD_BALANCER: Shape = Fields(&[
    ("simple", Read),
    (
        "consistentHash",
        Fields(&[
            ("httpHeaderName", Read),
            ("httpCookie", COOKIE),
            ("useSourceIp", Read),
            ("httpQueryParameterName", Read),
            ("ringHash", Fields(&[("minimumRingSize", Read)])),
            ("maglev", Fields(&[("tableSize", Read)])),
            ("minimumRingSize", Read),
        ]),
    ),
    (
        "localityLbSetting",
        Fields(&[
            ("enabled", Read),
            ("distribute", List(&Fields(&[("from", Read), ("to", Read)]))),
            ("failover", List(&Fields(&[("from", Read), ("to", Read)]))),
            ("failoverPriority", Read),
        ]),
    ),
    ("zoneAwareLbSetting", Unsupported("zones are not balanced by size: use localityLbSetting")),
    ("warmupDurationSecs", Read),
    ("warmup", Fields(&[("duration", Read), ("minimumPercent", Read), ("aggression", Read)])),
]);

const CONNECTION_POOL: Shape = Fields(&[
    (
        "tcp",
        Fields(&[
            ("maxConnections", Read),
            ("connectTimeout", Read),
            ("tcpKeepalive", Fields(&[("probes", Read), ("time", Read), ("interval", Read)])),
            ("maxConnectionDuration", Read),
            ("idleTimeout", Read),
        ]),
    ),
    (
        "http",
        Fields(&[
            ("http1MaxPendingRequests", Read),
            ("http2MaxRequests", Read),
            ("maxRequestsPerConnection", Read),
            ("maxRetries", Read),
            ("idleTimeout", Read),
            ("h2UpgradePolicy", Read),
            ("useClientProtocol", Read),
            ("maxConcurrentStreams", Read),
            (
                "http2KeepAlive",
                Unsupported("silent connections that owe answers are asked by PING after 30 s"),
            ),
        ]),
    ),
]);

const OUTLIER_DETECTION: Shape = Fields(&[
    ("consecutiveErrors", Unsupported(DEPRECATED)),
    ("consecutive5xxErrors", Read),
    ("consecutiveGatewayErrors", Read),
    ("splitExternalLocalOriginErrors", Read),
    ("consecutiveLocalOriginFailures", Read),
    ("interval", Read),
    ("baseEjectionTime", Read),
    ("maxEjectionPercent", Read),
    ("minHealthPercent", Read),
    ("outlierDetectionHttpErrorCodes", Read),
]);

const TLS: Shape = Fields(&[
    ("mode", Read),
    ("clientCertificate", Read),
    ("privateKey", Read),
    ("caCertificates", Read),
    ("credentialName", NOT_ORIGINATED),
    ("subjectAltNames", Read),
    ("sni", Read),
    ("insecureSkipVerify", Read),
    ("caCrl", NOT_ORIGINATED),
]);
