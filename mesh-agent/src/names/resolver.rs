//! hickory on the servers of a resolv.conf, which is read again when it changes.
//!
//! Used by the thread of names. Answers that a pod must not be led to, such as loopback, are left out here.

use std::cell::RefCell;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

use crate::objects::usable_address;

/// Addresses with the time for which they are good.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("it has no address that could be used")]
    NoAddress,
    #[error("{0}")]
    Failed(String),
    #[error("the resolver's configuration can't be used: {0}")]
    Configuration(String),
}

type Stamp = Option<(SystemTime, u64)>;

/// Asks.
pub(super) struct Resolver {
    conf: PathBuf,
    made: RefCell<Option<(Stamp, TokioResolver)>>,
}

impl Resolver {
    pub(super) fn new(conf: PathBuf) -> Self {
        Self { conf, made: RefCell::default() }
    }

    /// IPv4 and IPv6 addresses of a name, which is taken as it stands: no search domain is tried.
    pub(super) async fn look_up(&self, name: &str) -> Result<Found, Failure> {
        let resolver = self.current()?;
        let found = resolver.lookup_ip(format!("{name}.")).await.map_err(|error| {
            if error.is_no_records_found() { Failure::NoAddress } else { Failure::Failed(error.to_string()) }
        })?;
        let addresses: Vec<_> = found.iter().filter_map(usable_address).collect();
        if addresses.is_empty() {
            return Err(Failure::NoAddress);
        }
        Ok(Found { addresses, ttl: found.valid_until().saturating_duration_since(Instant::now()) })
    }

    fn current(&self) -> Result<TokioResolver, Failure> {
        let metadata = fs::metadata(&self.conf).ok();
        let stamp = metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())));
        let mut made = self.made.borrow_mut();
        if let Some((known, resolver)) = &*made
            && *known == stamp
        {
            return Ok(resolver.clone());
        }
        let resolver = self.make()?;
        *made = Some((stamp, resolver.clone()));
        Ok(resolver)
    }

    fn make(&self) -> Result<TokioResolver, Failure> {
        let refused = |error: &dyn std::fmt::Display| {
            Failure::Configuration(format!("{}: {error}", self.conf.display()))
        };
        let text = fs::read(&self.conf).map_err(|error| refused(&error))?;
        let (config, mut options) = parse_resolv_conf(text).map_err(|error| refused(&error))?;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|error| refused(&error))
    }
}
