//! Whether traffic may go where it arrives: AuthorizationPolicies asked about each request, and each connection that carries none.
//!
//! Asked on arrival in a pod (`inbound`), and by the client's agent for a pod of its own node once that is picked as the
//! endpoint, since nobody else will see the traffic. Judging is `crate::authz`; here are the facts, who is asked besides, and
//! what becomes of a refusal. `watch` asks again on open connections when the configuration changes, `report` tells.

mod report;
mod watch;

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::HOST;
use http::request;

use self::report::Subject;
use super::answer::LocalAnswer;
use super::backend::Picked;
use super::context::{Connection, Direction};
use super::error::{ErrorKind, Hostile};
use crate::addr::EndpointAddr;
use crate::authz::{
    Compiled, Facts, HasNul, Judged, Options, Readings, RequestFacts, RuleName, Verdict, WorkloadPolicies,
    remote_address,
};
use crate::jwt::Claims;
use crate::model::Workload;

thread_local! {
    /// For the path of the request that is judged now.
    static READINGS: RefCell<Readings> = RefCell::default();
}

/// Where traffic arrives, and what holds there.
pub struct Arrival {
    /// The pod.
    pub workload: Arc<Workload>,
    /// Its address and port.
    pub address: EndpointAddr,
    /// Its policies at that port.
    pub policies: Arc<Compiled>,
    options: Arc<Options>,
}

/// A connection that was refused, until that is told.
pub struct Refused {
    arrival: Arrival,
    rule: Option<Arc<RuleName>>,
    /// Nothing that the client could say would let it in.
    for_good: bool,
}

impl Connection {
    /// Lets a request in where it arrives in this connection's own pod, or says what it is answered.
    ///
    /// # Errors
    /// With the answer to give at once.
    pub async fn admit_arrival(&self, head: &request::Parts) -> Result<(), LocalAnswer> {
        if self.direction == Direction::Outbound {
            return Ok(());
        }
        self.follow_configuration();
        admit_request(self, None, head).await
    }

    /// The same for a request that goes from here straight to the application of another pod.
    ///
    /// # Errors
    /// With the answer to give at once.
    pub(super) async fn admit_departure(
        &self,
        picked: &Picked,
        head: &request::Parts,
    ) -> Result<(), LocalAnswer> {
        if self.direction == Direction::Inbound {
            return Ok(());
        }
        admit_request(self, Some(picked), head).await
    }

    /// True if a request may go to `picked` without anybody being asked: for copies and hedges, which wait for nobody.
    pub(super) fn admits_at_once(&self, picked: &Picked, head: &request::Parts) -> bool {
        let Some(arrival) = self.arrival(Some(picked)).filter(|_| self.direction == Direction::Outbound)
        else {
            return true;
        };
        let admits = |judged: Judged<'_>| judged.custom.is_none() && !judged.verdict.is_denied();
        judge_request(self, &arrival, head, None, admits).unwrap_or(false)
    }

    /// Lets a connection to `picked` in that isn't carried as requests. While it is being found out what the connection
    /// carries (`detecting`), nobody else is asked, and what is refused may still turn out to be requests.
    ///
    /// # Errors
    /// If it may not.
    pub(super) async fn admit_connection(&self, picked: &Picked, detecting: bool) -> Result<(), ErrorKind> {
        self.follow_configuration();
        let Some(arrival) = self.arrival(Some(picked)) else { return Ok(()) };
        let (denied, custom, for_good) = self.judge_connection(&arrival, |judged, for_good| {
            let denied = judged.verdict.is_denied().then(|| judged.verdict.rule().cloned());
            (denied, judged.custom.cloned(), for_good)
        });
        let refused_by = match (denied, custom) {
            (Some(rule), None) => rule,
            (Some(rule), Some(_)) if detecting => rule,
            (None, Some(rule)) if detecting => Some(rule),
            (None, None) => return Ok(()),
            (denied, Some(rule)) => match ask_about_connection(self, &arrival, &rule).await {
                Err(()) => Some(rule),
                Ok(()) => match denied {
                    Some(rule) => rule,
                    None => return Ok(()),
                },
            },
        };
        self.refused.replace(Some(Refused { arrival, rule: refused_by, for_good }));
        Err(ErrorKind::Denied)
    }

    /// Takes note of a connection that was let in.
    pub(super) fn note_admitted(&self, picked: &Picked) {
        if let Some(arrival) = self.arrival(Some(picked)) {
            self.judge_connection(&arrival, |judged, _| {
                report::noted(self, &Subject { arrival: &arrival, head: None }, &judged);
            });
        }
    }

    /// True if the connection that was refused as one of bytes may be let in as one of requests.
    pub(super) fn may_carry_requests(&self) -> bool {
        self.refused.borrow().as_ref().is_some_and(|refused| !refused.for_good)
    }

    /// It goes on all the same, as one of requests.
    pub(super) fn forget_refusal(&self) {
        self.refused.take();
    }

    /// Tells of a refusal; the words for the access log. Empty if it was for another reason.
    pub fn tell_refusal(&self) -> Arc<str> {
        let Some(refused) = self.refused.take() else { return "".into() };
        let verdict = Verdict::Denied(refused.rule.as_ref());
        report::denied(self, &Subject { arrival: &refused.arrival, head: None }, verdict);
        verdict.details()
    }

    fn judge_connection<T>(&self, arrival: &Arrival, then: impl FnOnce(Judged<'_>, bool) -> T) -> T {
        let sni = self.sni.borrow().as_ref().map(|sni| sni.to_ascii_lowercase());
        let facts = self.facts(arrival).named(sni.as_deref());
        let judged = arrival.policies.judge(&facts);
        let for_good = judged.verdict.is_denied() && arrival.policies.denies_for_good(&facts);
        then(judged, for_good)
    }

    fn facts(&self, arrival: &Arrival) -> Facts<'_> {
        Facts::new(self.proven_identity(), self.client.ip(), (arrival.address.ip(), arrival.address.port()))
    }

    /// Where this traffic arrives, if policies hold there that this agent asks: of its own pod, or of the pod of this node that
    /// it goes straight to. A probe of the node's that has to pass in every mode is told apart here.
    fn arrival(&self, picked: Option<&Picked>) -> Option<Arrival> {
        let snapshot = self.snapshot();
        if snapshot.authorization.workloads.is_empty() {
            return None;
        }
        let (workload, address) = match (self.direction, picked) {
            (Direction::Inbound, _) => (self.pod.workload(), EndpointAddr::from(self.dst)),
            (Direction::Outbound, Some(picked)) => {
                let endpoint = &picked.upstream.endpoint;
                // Whoever has the address gets the connection, whatever a slice says of it.
                let there = snapshot.workload_at(endpoint.addr.ip()).or(endpoint.workload.as_ref())?;
                if !there.is_enrolled() || *there.node != *snapshot.node {
                    return None;
                }
                (there.clone(), endpoint.addr)
            }
            (Direction::Outbound, None) => return None,
        };
        let policies = self.policies_of(&workload)?.at(address.port()).clone();
        Some(Arrival { workload, address, policies, options: snapshot.authorization.options.clone() })
    }

    /// Found by name once for this connection and configuration.
    fn policies_of(&self, workload: &Arc<Workload>) -> Option<Arc<WorkloadPolicies>> {
        let mut known = self.policies.borrow_mut();
        let find = || {
            let found = self.snapshot().authorization_of(workload).cloned();
            // Kept with the pod, so that no other gets its address meanwhile.
            (workload.clone(), found)
        };
        known.entry(Arc::as_ptr(workload).addr()).or_insert_with(find).1.clone()
    }
}

/// What policies alone make of a request.
enum Admission {
    Admitted,
    Refused(Box<LocalAnswer>),
    /// Somebody else is asked first.
    Asks(Box<Asking>),
}

/// A provider that is asked, and what becomes of the request if it agrees.
struct Asking {
    arrival: Arrival,
    rule: Arc<RuleName>,
    /// It is denied then too, by this rule if by one.
    denied: Option<Option<Arc<RuleName>>>,
}

/// Lets a request in where it arrives, or says what it is answered. Most are neither waited for nor make room for it.
///
/// # Errors
/// With the answer to give at once.
async fn admit_request(
    conn: &Connection,
    picked: Option<&Picked>,
    head: &request::Parts,
) -> Result<(), LocalAnswer> {
    let asking = match judge_arriving(conn, picked, head) {
        Admission::Admitted => return Ok(()),
        Admission::Refused(answer) => return Err(*answer),
        Admission::Asks(asking) => asking,
    };
    Box::pin(ask_about_request(conn, asking, head)).await
}

/// Asks policies alone, without a wait.
fn judge_arriving(conn: &Connection, picked: Option<&Picked>, head: &request::Parts) -> Admission {
    let Some(arrival) = conn.arrival(picked) else { return Admission::Admitted };
    let subject = Subject { arrival: &arrival, head: Some(head) };
    let judged = judge_request(conn, &arrival, head, None, |judged| {
        report::noted(conn, &subject, &judged);
        (judged.custom.cloned(), judged.verdict.is_denied().then(|| judged.verdict.rule().cloned()))
    });
    let Ok((custom, denied)) = judged else {
        return Admission::Refused(Box::new(refuse(ErrorKind::DownstreamProtocol(Hostile::BadTarget))));
    };
    match (custom, denied) {
        (None, None) => Admission::Admitted,
        (None, Some(rule)) => {
            Admission::Refused(Box::new(deny(conn, &subject, Verdict::Denied(rule.as_ref()))))
        }
        (Some(rule), denied) => Admission::Asks(Box::new(Asking { arrival, rule, denied })),
    }
}

/// What becomes of a request. Nothing is waited for between its facts and their use.
fn judge_request<T>(
    conn: &Connection,
    arrival: &Arrival,
    head: &request::Parts,
    claims: Option<&Claims>,
    then: impl FnOnce(Judged<'_>) -> T,
) -> Result<T, HasNul> {
    READINGS.with_borrow_mut(|readings| {
        readings.read(head.uri.path(), arrival.options.normalization)?;
        let request = RequestFacts {
            method: head.method.as_str(),
            host: host_of(head),
            path: readings,
            headers: &head.headers,
            remote: remote_of(conn.client.ip(), head, &arrival.options),
            claims,
        };
        let facts = conn.facts(arrival).asking(request);
        Ok(then(arrival.policies.judge(&facts)))
    })
}

fn host_of(head: &request::Parts) -> Option<&str> {
    let authority = head.uri.authority().map(|authority| authority.as_str());
    authority.or_else(|| head.headers.get(HOST)?.to_str().ok())
}

fn remote_of(peer: IpAddr, head: &request::Parts, options: &Options) -> IpAddr {
    remote_address(&head.headers, peer, options.trusted_hops)
}

/// Asks the provider of a CUSTOM rule. Without one that answers, what asks for it is denied.
async fn ask_about_request(
    conn: &Connection,
    asking: Box<Asking>,
    head: &request::Parts,
) -> Result<(), LocalAnswer> {
    let Asking { arrival, rule, denied } = *asking;
    let subject = Subject { arrival: &arrival, head: Some(head) };
    let rule = denied.unwrap_or(Some(rule));
    Err(deny(conn, &subject, Verdict::Denied(rule.as_ref())))
}

/// The same of a connection.
async fn ask_about_connection(_: &Connection, _: &Arrival, _: &Arc<RuleName>) -> Result<(), ()> {
    Err(())
}

/// Tells of a refusal, and what the client is told.
fn deny(conn: &Connection, subject: &Subject<'_>, verdict: Verdict<'_>) -> LocalAnswer {
    report::denied(conn, subject, verdict);
    LocalAnswer { details: Some(verdict.details()), ..refuse(ErrorKind::Denied) }
}

fn refuse(why: ErrorKind) -> LocalAnswer {
    LocalAnswer::to(why).unwrap_or_else(|| LocalAnswer::new(http::StatusCode::FORBIDDEN, Vec::new()))
}

#[cfg(test)]
mod tests;
