//! Whether traffic may go where it arrives: AuthorizationPolicies asked about each request, and each connection that carries none.
//!
//! Asked on arrival in a pod (`inbound`), and by the client's agent for a pod of its own node once that is picked as the
//! endpoint, since nobody else will see the traffic. Tokens come first (`authenticate`), then who is asked besides (`external`),
//! then policies: judging is `crate::authz`, here are the facts, and what becomes of a refusal. `passing` is the request's head,
//! which the first two may change. `watch` asks again on open connections when the configuration changes, `report` tells.

mod passing;
mod report;
mod watch;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use http::header::HOST;
use http::request;

pub use self::passing::Admitted;
pub(super) use self::passing::Passing;
use self::report::Subject;
use super::answer::LocalAnswer;
use super::backend::Picked;
use super::context::{Connection, Direction, KnownPolicies};
use super::error::{ErrorKind, Hostile};
use crate::addr::EndpointAddr;
use crate::authz::{
    Compiled, Facts, HasNul, Judged, Options, Readings, RequestFacts, RuleName, Verdict, remote_address,
};
use crate::ext_authz::{Allowed, Asked, Peer, Protocol, Provider};
use crate::jwt::{Authenticated, Authentication, Claims};
use crate::model::Workload;
use crate::objects::Action;
use crate::route::HeaderEdits;

thread_local! {
    /// For the path of the request that is judged now.
    static READINGS: RefCell<Readings> = RefCell::default();
}

/// What holds where no policy does.
static NO_POLICIES: LazyLock<Arc<Compiled>> = LazyLock::new(|| Arc::new(Compiled::new(Vec::new())));

/// Where traffic arrives, and what holds there.
pub struct Arrival {
    /// The pod.
    pub workload: Arc<Workload>,
    /// Its address and port.
    pub address: EndpointAddr,
    /// Its policies at that port.
    pub policies: Arc<Compiled>,
    /// Whose tokens count there; None where nobody asks for any.
    pub tokens: Option<Arc<Authentication>>,
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
    /// Lets a request in where it arrives in this connection's own pod, or says what it is answered. `bodyless` if nothing
    /// follows its head.
    ///
    /// # Errors
    /// With the answer to give at once.
    pub async fn admit_arrival(
        &self,
        head: &mut request::Parts,
        bodyless: bool,
    ) -> Result<Option<Rc<Admitted>>, LocalAnswer> {
        if self.direction == Direction::Outbound {
            return Ok(None);
        }
        self.admit_plain_text(head, bodyless)?;
        // Kubelet's probes pass in every mode, and are nothing but what the pod declares.
        let is_probe = self.is_probe(head, bodyless);
        let mut passing = Passing::Own(head);
        self.replace_client_cert(None, &mut passing);
        if is_probe {
            return Ok(None);
        }
        self.follow_configuration();
        admit_request(self, None, passing).await
    }

    /// The same for a request that goes from here straight to the application of another pod.
    ///
    /// # Errors
    /// With the answer to give at once.
    pub(super) async fn admit_departure(
        &self,
        picked: &Picked,
        head: &request::Parts,
    ) -> Result<Option<Rc<Admitted>>, LocalAnswer> {
        if self.direction == Direction::Inbound {
            return Ok(None);
        }
        let mut passing = Passing::Shared(head, None);
        self.replace_client_cert(Some(picked), &mut passing);
        admit_request(self, Some(picked), passing).await
    }

    /// Lets a request go to `picked` without anybody being asked, with this head where it isn't its own: for copies and
    /// hedges, which wait for nobody. One whose token changes it doesn't go.
    ///
    /// # Errors
    /// If it may not.
    pub(super) fn admit_at_once(
        &self,
        picked: &Picked,
        head: &request::Parts,
    ) -> Result<Option<Box<request::Parts>>, ErrorKind> {
        if self.direction == Direction::Inbound {
            return Ok(None);
        }
        let mut passing = Passing::Shared(head, None);
        self.replace_client_cert(Some(picked), &mut passing);
        let Some(arrival) = self.arrival(Some(picked)) else { return Ok(passing.changed()) };
        let head = passing.head();
        let admits = |judged: Judged<'_>| judged.custom.is_none() && !judged.verdict.is_denied();
        let claims = match arrival.tokens.as_ref().map(|tokens| self.pod.worker.authenticate(tokens, head)) {
            None => None,
            Some(Ok(Authenticated { claims, edits: None })) => claims,
            Some(_) => return Err(ErrorKind::Denied),
        };
        match judge_request(self, &arrival, head, claims.as_deref(), admits) {
            Ok(true) => Ok(passing.changed()),
            Ok(false) | Err(HasNul) => Err(ErrorKind::Denied),
        }
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

    /// The pod at which this traffic arrives, if this agent is asked about it there: its own, or that of this node that it goes
    /// straight to. What goes on over mutual TLS arrives elsewhere, and is judged there.
    pub(super) fn arrives_at(&self, picked: Option<&Picked>) -> Option<(Arc<Workload>, EndpointAddr)> {
        match (self.direction, picked) {
            (Direction::Inbound, _) => Some((self.pod.workload(), EndpointAddr::from(self.dst))),
            (Direction::Outbound, Some(picked)) if picked.upstream.is_mesh() => None,
            (Direction::Outbound, Some(picked)) => {
                let (snapshot, endpoint) = (self.snapshot(), &picked.upstream.endpoint);
                // Whoever has the address gets the connection, whatever a slice says of it.
                let there = snapshot.workload_at(endpoint.addr.ip()).or(endpoint.workload.as_ref())?;
                let guarded = there.is_enrolled() && *there.node == *snapshot.node;
                guarded.then(|| (there.clone(), endpoint.addr))
            }
            (Direction::Outbound, None) => None,
        }
    }

    /// The same with what holds there. None if nothing does.
    fn arrival(&self, picked: Option<&Picked>) -> Option<Arrival> {
        let snapshot = self.snapshot();
        if snapshot.authorization.workloads.is_empty() && snapshot.authentication.workloads.is_empty() {
            return None;
        }
        let (workload, address) = self.arrives_at(picked)?;
        let (_, policies, tokens) = self.guards_of(&workload);
        if policies.is_none() && tokens.is_none() {
            return None;
        }
        let port = address.port();
        let policies = policies.map_or_else(|| NO_POLICIES.clone(), |policies| policies.at(port).clone());
        let tokens = tokens.map(|tokens| tokens.at(port).clone());
        Some(Arrival { workload, address, policies, tokens, options: snapshot.authorization.options.clone() })
    }

    /// Found by name once for this connection and configuration.
    fn guards_of(&self, workload: &Arc<Workload>) -> KnownPolicies {
        let mut known = self.policies.borrow_mut();
        let find = || {
            let snapshot = self.snapshot();
            let policies = snapshot.authorization_of(workload).cloned();
            // Kept with the pod, so that no other gets its address meanwhile.
            (workload.clone(), policies, snapshot.authentication_of(workload).cloned())
        };
        known.entry(Arc::as_ptr(workload).addr()).or_insert_with(find).clone()
    }
}

/// What is known of a request before anybody else is asked.
enum Admission<'h> {
    Settled(Result<Option<Rc<Admitted>>, Box<LocalAnswer>>),
    /// Somebody else is asked first.
    Asks(Box<Asking<'h>>),
}

/// A provider that is asked, and what becomes of the request if it agrees.
struct Asking<'h> {
    arrival: Arrival,
    passing: Passing<'h>,
    admitted: Admitted,
    rule: Arc<RuleName>,
    /// It is denied then too, by this rule if by one.
    denied: Option<Option<Arc<RuleName>>>,
}

/// Lets a request in where it arrives, or says what it is answered. None: nothing of it changes, and nothing is known of it.
/// Most are neither waited for nor make room for it.
///
/// # Errors
/// With the answer to give at once.
async fn admit_request(
    conn: &Connection,
    picked: Option<&Picked>,
    passing: Passing<'_>,
) -> Result<Option<Rc<Admitted>>, LocalAnswer> {
    match judge_arriving(conn, picked, passing) {
        Admission::Settled(result) => result.map_err(|answer| *answer),
        Admission::Asks(asking) => Box::pin(asking.go_on(conn)).await,
    }
}

/// Asks what needs no wait: tokens, and policies.
fn judge_arriving<'h>(conn: &Connection, picked: Option<&Picked>, mut passing: Passing<'h>) -> Admission<'h> {
    let refused = |answer| Admission::Settled(Err(Box::new(answer)));
    let mut admitted = Admitted::default();
    let Some(arrival) = conn.arrival(picked) else {
        return Admission::Settled(Ok(admitted.noted(passing.changed())));
    };
    if let Some(tokens) = &arrival.tokens {
        let Authenticated { claims, edits } = match conn.pod.worker.authenticate(tokens, passing.head()) {
            Ok(authenticated) => authenticated,
            Err(answer) => return refused(answer),
        };
        admitted.claims = claims;
        if let Some(edits) = edits {
            admitted.retargeted |= edits.apply(passing.change());
        }
    }
    let judged = judge_request(conn, &arrival, passing.head(), admitted.claims.as_deref(), |judged| {
        report::noted(conn, &Subject { arrival: &arrival, head: Some(passing.head()) }, &judged);
        (judged.custom.cloned(), denied_by(&judged))
    });
    match judged {
        Err(HasNul) => refused(refuse(ErrorKind::DownstreamProtocol(Hostile::BadTarget))),
        Ok((Some(rule), denied)) => {
            Admission::Asks(Box::new(Asking { arrival, passing, admitted, rule, denied }))
        }
        Ok((None, denied)) => Admission::Settled(settle(conn, &arrival, passing, admitted, denied)),
    }
}

/// What becomes of a request about which everybody was asked.
fn settle(
    conn: &Connection,
    arrival: &Arrival,
    passing: Passing<'_>,
    admitted: Admitted,
    denied: Option<Option<Arc<RuleName>>>,
) -> Result<Option<Rc<Admitted>>, Box<LocalAnswer>> {
    if let Some(rule) = denied {
        let subject = Subject { arrival, head: Some(passing.head()) };
        return Err(Box::new(deny(conn, &subject, Verdict::Denied(rule.as_ref()))));
    }
    Ok(admitted.noted(passing.changed()))
}

impl Asking<'_> {
    async fn go_on(self: Box<Self>, conn: &Connection) -> Result<Option<Rc<Admitted>>, LocalAnswer> {
        let Self { arrival, mut passing, mut admitted, rule, mut denied } = *self;
        let allowed = ask_about_request(conn, &arrival, passing.head(), &rule).await?;
        if !allowed.response.is_empty() {
            let set = allowed.response.clone();
            admitted.told = Some(Box::new(HeaderEdits { set, ..HeaderEdits::default() }));
        }
        if !allowed.is_empty() {
            admitted.retargeted |= allowed.apply(passing.change());
            let claims = admitted.claims.as_deref();
            // It has to be allowed as it was and as it is.
            let again = judge_request(conn, &arrival, passing.head(), claims, |judged| denied_by(&judged));
            denied = denied.or(again.unwrap_or(Some(None)));
        }
        settle(conn, &arrival, passing, admitted, denied).map_err(|answer| *answer)
    }
}

/// Some if it is denied, with the rule that says so, if one does.
fn denied_by(judged: &Judged<'_>) -> Option<Option<Arc<RuleName>>> {
    judged.verdict.is_denied().then(|| judged.verdict.rule().cloned())
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
///
/// # Errors
/// With the answer to give at once.
async fn ask_about_request(
    conn: &Connection,
    arrival: &Arrival,
    head: &request::Parts,
    rule: &Arc<RuleName>,
) -> Result<Box<Allowed>, LocalAnswer> {
    let Some(provider) = provider_of(conn, arrival, rule) else {
        return Err(deny(conn, &Subject { arrival, head: Some(head) }, Verdict::Denied(Some(rule))));
    };
    let destination = conn.pod.worker.telemetry.metrics.principal(&arrival.workload);
    let asked = asked(conn, arrival, &destination, Some(head), None);
    conn.ask_provider(provider, &asked, &arrival.workload).await
}

/// The same of a connection. Only gRPC has a question about one.
async fn ask_about_connection(conn: &Connection, arrival: &Arrival, rule: &Arc<RuleName>) -> Result<(), ()> {
    let provider = provider_of(conn, arrival, rule).filter(|provider| provider.protocol == Protocol::Grpc);
    let Some(provider) = provider else { return Err(()) };
    let destination = conn.pod.worker.telemetry.metrics.principal(&arrival.workload);
    let sni = conn.sni.borrow().clone();
    let asked = asked(conn, arrival, &destination, None, sni.as_deref());
    conn.ask_provider(provider, &asked, &arrival.workload).await.map(|_| ()).map_err(|_| ())
}

/// Whom the rule names, if the configuration file has it and the pod's other policies name nobody else (Istio: one provider for
/// a workload, or everything is denied).
fn provider_of<'c>(conn: &'c Connection, arrival: &Arrival, rule: &RuleName) -> Option<&'c Arc<Provider>> {
    let name = rule.provider.as_deref()?;
    let custom = arrival
        .policies
        .policies()
        .iter()
        .filter(|policy| policy.action == Action::Custom && !policy.dry_run);
    let mut others = custom.flat_map(|policy| &policy.rules).filter_map(|rule| rule.name.provider.as_deref());
    if others.any(|other| other != name) {
        return None;
    }
    conn.pod.worker.providers.get(name)
}

fn asked<'a>(
    conn: &'a Connection,
    arrival: &Arrival,
    destination: &'a str,
    head: Option<&'a request::Parts>,
    sni: Option<&'a str>,
) -> Asked<'a> {
    Asked {
        source: Peer { address: conn.client.socket_addr(), identity: conn.proven_identity() },
        destination: Peer { address: arrival.address.socket_addr(), identity: Some(destination) },
        head,
        sni,
        time: SystemTime::now(),
    }
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
