//! Keeps a client at its endpoint (GEP-1619): whether what it carries names one that still serves, and what it is told.
//!
//! Asked by `plan` before a backend is drawn, and when a response's head is known. Values are `route::session`'s. A
//! session goes before weights and balancing, never before an endpoint's own state: one that no longer serves has no
//! sessions left.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;

use super::backend::Picked;
use crate::addr::EndpointAddr;
use crate::balance::Avoid;
use crate::clock;
use crate::model::{Endpoint, ServicePort};
use crate::route::{HeaderEdits, Scope, Session, SessionPersistence};

/// The session of one request.
pub struct Sticky {
    how: Arc<SessionPersistence>,
    /// Whose sessions.
    scope: Scope,
    /// What the client carries, if its endpoint serves.
    kept: Option<Session>,
    backend: Scope,
    told: OnceCell<HeaderEdits>,
}

impl Sticky {
    /// What a request of `scope` carries for one of several service ports: the place of the one that it names, if its
    /// endpoint serves.
    pub fn find<'p>(
        how: &SessionPersistence,
        scope: Scope,
        headers: &HeaderMap,
        ports: impl Iterator<Item = Option<&'p Arc<ServicePort>>>,
    ) -> Option<(usize, Session)> {
        let session = how.read(scope, headers, now_ms())?;
        let names = |port: &Arc<ServicePort>| {
            tag(scope, port) == session.backend && serving(port, session.endpoint).is_some()
        };
        let at = ports.enumerate().find(|(_, port)| port.is_some_and(names))?.0;
        Some((at, session))
    }

    /// Of a request that goes to `port`; `kept` is what [`Self::find`] found.
    pub fn new(
        how: Arc<SessionPersistence>,
        scope: Scope,
        port: &ServicePort,
        kept: Option<Session>,
    ) -> Self {
        Self { how, scope, kept, backend: tag(scope, port), told: OnceCell::new() }
    }

    /// Of a request that goes to `port`, if the port has a policy of its own. Rules don't share its sessions either.
    pub fn of_port(port: &Arc<ServicePort>, scope: Scope, headers: &HeaderMap) -> Option<Self> {
        let how = port.session.as_ref()?;
        let kept = Self::find(how, scope, headers, std::iter::once(Some(port)));
        Some(Self::new(how.clone(), scope, port, kept.map(|(_, session)| session)))
    }

    /// The endpoint that the first try goes to.
    pub fn endpoint(&self) -> Option<EndpointAddr> {
        self.kept.map(|session| session.endpoint)
    }

    /// Settles what the client is told, now that an endpoint has answered.
    pub fn settle(&self, picked: &Picked) {
        let (now_ms, endpoint) = (now_ms(), picked.upstream.endpoint.addr);
        let session = match self.kept {
            Some(kept) if kept.endpoint == endpoint && !self.how.tells_use() => return,
            Some(kept) if kept.endpoint == endpoint => Session { used_ms: now_ms, ..kept },
            _ => Session { endpoint, backend: self.backend, begun_ms: now_ms, used_ms: now_ms },
        };
        self.told.get_or_init(|| self.how.tell(self.scope, &session, now_ms));
    }

    /// What comes into the response's head.
    pub fn told(&self) -> Option<&HeaderEdits> {
        self.told.get()
    }
}

/// The endpoint with this address, if it takes requests of sessions: it is available to everybody, or it drains and
/// still serves, and its checks haven't found it unhealthy.
pub fn serving(port: &ServicePort, addr: EndpointAddr) -> Option<&Arc<Endpoint>> {
    let all = &port.endpoints.all;
    let endpoint = &all[all.binary_search_by_key(&addr, |endpoint| endpoint.addr).ok()?];
    let available = || port.endpoints.available.iter().any(|other| Arc::ptr_eq(other, endpoint));
    let healthy = || !Avoid::of(&port.endpoints, &port.policy, clock::now_ns()).is_unhealthy(endpoint);
    ((endpoint.serving && endpoint.terminating || available()) && healthy()).then_some(endpoint)
}

/// Tells the backends of a rule apart, some of which may share endpoints, and those of other rules from them.
fn tag(scope: Scope, port: &ServicePort) -> Scope {
    scope.backend(&port.service.name, port.port)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
