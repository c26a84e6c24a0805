//! Which flows somebody wants to see, in the terms of `hubble observe`.
//!
//! Several values of one term: any of them. Several terms: all of them. What stands behind `--not` makes a second filter,
//! and flows that it matches are left out. Judged on the data path, for whom a flow is wanted, so that an observer's bounded
//! queue has only what it asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use regex::Regex;

use crate::admin::api::flow::{Flow, FlowPeer, Verdict};

/// How a term that is negated is called in a query: `not-http-method=GET`.
pub const NOT: &str = "not-";

/// A term that a flow can be asked for.
#[derive(Debug)]
pub struct Term {
    /// Flag of the command line, and parameter of a query.
    pub name: &'static str,
    /// What its value is called.
    pub value: &'static str,
    /// For people.
    pub help: &'static str,
}

macro_rules! terms {
    ($($name:literal $value:literal $help:literal;)+) => {
        /// Every term.
        pub const TERMS: &[Term] = &[$(Term { name: $name, value: $value, help: $help }),+];
    };
}

terms! {
    "pod" "[NAMESPACE/]PREFIX" "Flows from or to pods whose names begin so; of the namespace `default` without one";
    "from-pod" "[NAMESPACE/]PREFIX" "Flows from such pods";
    "to-pod" "[NAMESPACE/]PREFIX" "Flows to such pods";
    "namespace" "NAMESPACE" "Flows from or to pods of this namespace, or to its services";
    "from-namespace" "NAMESPACE" "Flows from pods of this namespace";
    "to-namespace" "NAMESPACE" "Flows to pods or services of this namespace";
    "to-service" "[NAMESPACE/]PREFIX" "Flows to services whose names begin so";
    "ip" "IP|CIDR" "Flows from or to such an address";
    "from-ip" "IP|CIDR" "Flows from such an address";
    "to-ip" "IP|CIDR" "Flows to such an address, dialled or an endpoint's";
    "port" "PORT" "Flows from or to this port";
    "from-port" "PORT" "Flows from this port";
    "to-port" "PORT" "Flows to this port, dialled or an endpoint's";
    "verdict" "VERDICT" "FORWARDED, DROPPED (or DENIED) or ERROR";
    "flag" "FLAG" "Flows with this response flag, such as UF";
    "reporter" "SIDE" "source or destination: whose view";
    "protocol" "PROTOCOL" "http (gRPC included), grpc, tcp (TLS included) or tls";
    "http-status" "STATUS" "Requests answered with this status, or one that begins so: 404, 5+";
    "http-method" "METHOD" "Requests with this method";
    "http-path" "REGEX" "Requests whose path, without its query, this matches somewhere";
    "trace-id" "ID" "Flows of this trace";
    "request-id" "ID" "Requests with this x-request-id";
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    allow: Vec<(&'static str, Vec<Test>)>,
    deny: Vec<(&'static str, Vec<Test>)>,
}

#[derive(Clone, Debug)]
enum Test {
    Pod(Side, String, String),
    Namespace(Side, String),
    Service(String, String),
    Ip(Side, IpAddr, u8),
    Port(Side, u16),
    Verdict(Verdict),
    Flag(String),
    Reporter(&'static str),
    Protocol(&'static [&'static str]),
    Status(String, bool),
    Method(String),
    Path(Regex),
    Trace(String),
    Request(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    From,
    To,
    Any,
}

/// Why something is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No term is called so.
    #[error("{0:?} is nothing that flows can be asked for")]
    Unknown(String),
    /// A term's value doesn't do.
    #[error("{value:?} is no value of {term}: expected {expected}")]
    Value {
        /// The term.
        term: &'static str,
        /// As given.
        value: String,
        /// What would do.
        expected: String,
    },
}

impl Filter {
    /// From terms with their values, as in a query.
    ///
    /// # Errors
    /// Names the first that doesn't do.
    pub fn parse<'a>(terms: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, FilterError> {
        let (mut allow, mut deny) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in terms {
            let (into, plain) = match name.strip_prefix(NOT) {
                Some(plain) => (&mut deny, plain),
                None => (&mut allow, name),
            };
            let term = TERMS.iter().find(|term| term.name == plain);
            let term = term.ok_or_else(|| FilterError::Unknown(name.to_owned()))?.name;
            let test = test(term, value).map_err(|expected| FilterError::Value {
                term,
                value: value.to_owned(),
                expected,
            })?;
            into.entry(term).or_insert_with(Vec::new).push(test);
        }
        Ok(Self { allow: allow.into_iter().collect(), deny: deny.into_iter().collect() })
    }

    /// True of a flow that is wanted.
    pub fn matches(&self, flow: &Flow) -> bool {
        let all = |terms: &[(&str, Vec<Test>)]| {
            terms.iter().all(|(_, tests)| tests.iter().any(|test| test.holds(flow)))
        };
        all(&self.allow) && (self.deny.is_empty() || !all(&self.deny))
    }
}

fn test(term: &str, value: &str) -> Result<Test, String> {
    let side = match term {
        _ if term.starts_with("from-") => Side::From,
        _ if term.starts_with("to-") => Side::To,
        _ => Side::Any,
    };
    let named = || {
        let (namespace, name) = value.split_once('/').unwrap_or(("default", value));
        (namespace.to_owned(), name.to_owned())
    };
    let name = term.trim_start_matches("from-").trim_start_matches("to-");
    Ok(match name {
        "pod" => {
            let (namespace, name) = named();
            Test::Pod(side, namespace, name)
        }
        "namespace" => Test::Namespace(side, value.to_owned()),
        "service" => {
            let (namespace, name) = named();
            Test::Service(namespace, name)
        }
        "ip" => {
            let (ip, length) = network(value).ok_or("an address, or one with /LENGTH")?;
            Test::Ip(side, ip, length)
        }
        "port" => Test::Port(side, value.parse().map_err(|_| "a port")?),
        "verdict" => Test::Verdict(match value.to_ascii_uppercase().as_str() {
            "FORWARDED" => Verdict::Forwarded,
            "DROPPED" | "DENIED" => Verdict::Dropped,
            "ERROR" => Verdict::Error,
            _ => return Err("FORWARDED, DROPPED, DENIED or ERROR".to_owned()),
        }),
        "flag" => Test::Flag(value.to_owned()),
        "reporter" => Test::Reporter(match value {
            "source" => "source",
            "destination" => "destination",
            _ => return Err("source or destination".to_owned()),
        }),
        "protocol" => Test::Protocol(match value.to_ascii_lowercase().as_str() {
            "http" => &["http", "grpc"],
            "grpc" => &["grpc"],
            "tcp" => &["tcp", "tls"],
            "tls" => &["tls"],
            _ => return Err("http, grpc, tcp or tls".to_owned()),
        }),
        "http-status" => {
            let digits = value.trim_end_matches('+');
            let is_prefix = digits.len() < value.len();
            let fits = if is_prefix { (1..=2).contains(&digits.len()) } else { digits.len() == 3 };
            if !fits || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err("a status, or how it begins and a +, such as 404 or 5+".to_owned());
            }
            Test::Status(digits.to_owned(), is_prefix)
        }
        "http-method" => Test::Method(value.to_ascii_uppercase()),
        "http-path" => {
            Test::Path(Regex::new(value).map_err(|error| format!("a regular expression ({error})"))?)
        }
        "trace-id" => Test::Trace(value.to_ascii_lowercase()),
        _ => Test::Request(value.to_owned()),
    })
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip, Some(length.parse().ok()?)),
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    Some((ip, length.unwrap_or(most))).filter(|(_, length)| *length <= most)
}

fn is_within(ip: IpAddr, network: IpAddr, length: u8) -> bool {
    // An IPv4 address is at the upper end, and so is its mask.
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    ip.is_ipv4() == network.is_ipv4() && bits(ip) & mask == bits(network) & mask
}

impl Test {
    fn holds(&self, flow: &Flow) -> bool {
        let l7 = flow.l7.as_ref();
        match self {
            Self::Pod(side, namespace, prefix) => either(*side, flow, |peer| {
                peer.namespace == *namespace && !peer.pod.is_empty() && peer.pod.starts_with(prefix)
            }),
            Self::Namespace(side, namespace) => {
                let of_service = flow.service.as_ref().is_some_and(|it| it.namespace == *namespace);
                either(*side, flow, |peer| peer.namespace == *namespace)
                    || (*side != Side::From && of_service)
            }
            Self::Service(namespace, prefix) => flow
                .service
                .as_ref()
                .is_some_and(|it| it.namespace == *namespace && it.name.starts_with(prefix)),
            Self::Ip(side, network, length) => {
                let is_it = |ip: Option<IpAddr>| ip.is_some_and(|ip| is_within(ip, *network, *length));
                either(*side, flow, |peer| is_it(peer.ip))
                    || (*side != Side::From && is_it(flow.dialled.map(|at| at.ip())))
            }
            Self::Port(side, port) => {
                either(*side, flow, |peer| peer.port == *port)
                    || (*side != Side::From && flow.dialled.is_some_and(|at| at.port() == *port))
            }
            Self::Verdict(verdict) => flow.verdict == *verdict,
            Self::Flag(flag) => flow.flag.eq_ignore_ascii_case(flag),
            Self::Reporter(side) => flow.reporter.is_some_and(|reporter| reporter.label() == *side),
            Self::Protocol(any) => any.contains(&flow.protocol.as_str()),
            Self::Status(digits, is_prefix) => l7.is_some_and(|l7| {
                let status = l7.status.to_string();
                status == *digits || (*is_prefix && status.len() == 3 && status.starts_with(digits))
            }),
            Self::Method(method) => l7.is_some_and(|l7| l7.method.eq_ignore_ascii_case(method)),
            Self::Path(regex) => l7.is_some_and(|l7| {
                regex.is_match(l7.path.split_once('?').map_or(l7.path.as_str(), |(path, _)| path))
            }),
            Self::Trace(id) => flow.trace_id.eq_ignore_ascii_case(id),
            Self::Request(id) => flow.request_id == *id,
        }
    }
}

fn either(side: Side, flow: &Flow, is_it: impl Fn(&FlowPeer) -> bool) -> bool {
    (side != Side::To && is_it(&flow.source)) || (side != Side::From && is_it(&flow.destination))
}

#[cfg(test)]
mod tests;
