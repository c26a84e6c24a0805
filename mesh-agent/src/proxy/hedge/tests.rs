//! Which try wins a race and when each is sent, what it costs, and who is blamed; time stands still between events.
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep_until;

use super::*;
use crate::balance::testing;
use crate::model::{AppProtocol, ObjectName, ProtocolFrom, ServiceMeta, ServicePort, Snapshot};
use crate::policy::traffic::TrafficPolicy;
use crate::policy::{ClusterPolicy, OutlierDetection, PoolLimits};
use crate::proxy::testing::connection;
use crate::proxy::{Backends, Connection};

const MS: Duration = Duration::from_millis(1);
/// Hedges after 100 ms, two at the most, and 503 is worth another try.
const TWICE: &str =
    "hedge: {after: 100ms, max: 2}, retry: {on: [retriable-status-codes], statusCodes: [503]}";

/// How a try goes: until this millisecond of the race.
#[derive(Clone, Copy, Debug)]
enum Goes {
    Answers(u32, u16),
    Fails(u32),
    Hangs,
}
use Goes::{Answers, Fails, Hangs};

async fn goes(how: Goes, begun: Instant) -> Result<u16, ErrorKind> {
    match how {
        Answers(at, status) => {
            sleep_until(begun + at * MS).await;
            Ok(status)
        }
        Fails(at) => {
            sleep_until(begun + at * MS).await;
            Err(ErrorKind::UpstreamClosed)
        }
        Hangs => pending().await,
    }
}

/// A service of four endpoints, each of which one failure of its own would eject.
struct World {
    conn: Connection,
    port: Arc<ServicePort>,
}

/// What came of a race: the number of the try whose answer or failure it was, from 0 for the request's own, and when.
#[derive(Debug, PartialEq)]
struct Outcome {
    by: usize,
    result: Result<u16, ErrorKind>,
    at_ms: u128,
    /// When hedges were sent.
    sent_ms: Vec<u128>,
}

impl World {
    fn new(endpoints: u8, groups: &str) -> Self {
        Self::limited(endpoints, groups, PoolLimits::default())
    }

    fn limited(endpoints: u8, groups: &str, limits: PoolLimits) -> Self {
        let name = ObjectName::new("shop", "cart");
        let spec = format!("{{targetRefs: [{{kind: Service, name: cart}}], {groups}}}");
        let policy = TrafficPolicy::compile(&name, &serde_yaml_ng::from_str(&spec).unwrap(), None);
        let outlier = OutlierDetection {
            consecutive_5xx: 1,
            consecutive_gateway: 0,
            consecutive_local_origin: 1,
            split: true,
            codes: Vec::new(),
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(3600),
            max_ejection_percent: 100,
            min_health_percent: 0,
        };
        let port = Arc::new(ServicePort {
            service: Arc::new(ServiceMeta {
                name: name.clone(),
                host: "cart.shop.svc".into(),
                trace_sampling: None,
            }),
            name: String::new(),
            port: 80,
            protocol: AppProtocol::Http,
            protocol_from: ProtocolFrom::default(),
            policy: Arc::new(ClusterPolicy { outlier: Some(outlier), limits, ..ClusterPolicy::default() }),
            variants: Vec::new(),
            subset_name: None,
            subsets: Vec::new(),
            retries: Default::default(),
            session: None,
            external: None,
            backend_policy: None,
            endpoints: testing::set(endpoints, 0),
        });
        let conn = connection("127.0.0.1:80".parse().unwrap());
        let mut snapshot = Snapshot::default();
        snapshot.traffic.insert_mut((name, 80), Arc::new(policy));
        conn.pod.worker.snapshot.store(Arc::new(snapshot));
        conn.set_backends(Backends::Service(port.clone()));
        Self { conn, port }
    }

    /// Runs a request whose own try goes as `own`, its hedges as `hedges`; `whole` from the beginning on, or never.
    async fn run(&self, own: Goes, hedges: &[Goes], whole: bool) -> Option<Outcome> {
        let begun = Instant::now();
        let mut head = http::Request::new(()).into_parts().0;
        let mut account = Exchange::begin(&self.conn, &mut head);
        let plan = self.conn.plan(&mut head, &mut account).unwrap();
        let mut tries = Tries::new(&self.conn, &plan);
        let picked = tries.pick_now(&head).unwrap();
        account.sent_to(&picked);
        let sent = RefCell::new(Vec::new());
        let start = |granted: Granted| -> Run<'_, usize> {
            sent.borrow_mut().push(begun.elapsed().as_millis());
            let number = sent.borrow().len();
            let how = hedges.get(number - 1).copied().unwrap_or(Hangs);
            Box::pin(granted.run(async move |_| {
                let status = goes(how, begun).await?;
                Ok((StatusCode::from_u16(status).unwrap(), None, number))
            }))
        };
        let mut race: Box<Hedges<'_, usize>> = Hedges::of(&plan, &head)?;
        let (tries, account) = (&mut tries, &mut account);
        let mut asking = Asking { tries, account, head: &head, whole, own: true };
        let first = race.beside(goes(own, begun), &mut asking, start).await;
        let goes_on = match first {
            None => true,
            Some(Ok(status)) => {
                race.are_under_way() && asking.tries.is_unwanted(StatusCode::from_u16(status).unwrap(), None)
            }
            Some(Err(_)) => race.are_under_way(),
        };
        let (by, result) = if goes_on {
            asking.own = false;
            match race.rest(&mut asking, start).await {
                Race::Won(ahead) => (ahead.way, Ok(ahead.status.as_u16())),
                Race::Lost(behind) => (usize::MAX, Err(behind.why)),
            }
        } else {
            (0, first.unwrap())
        };
        drop(race);
        let at_ms = begun.elapsed().as_millis();
        Some(Outcome { by, result, at_ms, sent_ms: sent.take() })
    }

    fn hedges(&self, outcome: &str) -> u64 {
        self.conn.pod.worker.telemetry.metrics.agent().hedges.with_label_values(&[outcome]).get()
    }

    fn ejected(&self) -> usize {
        let now = clock::now_ns();
        self.port.endpoints.all.iter().filter(|one| one.load.outlier.is_ejected(now)).count()
    }
}

async fn check(
    own: Goes,
    hedges: &[Goes],
    by: usize,
    result: Result<u16, ErrorKind>,
    at_ms: u128,
    sent_ms: &[u128],
) {
    let world = World::new(4, TWICE);
    let outcome = world.run(own, hedges, true).await.unwrap();
    let want = Outcome { by, result, at_ms, sent_ms: sent_ms.to_vec() };
    assert_eq!(outcome, want, "{own:?} {hedges:?}");
    let won = u64::from(by != 0 && matches!(result, Ok(200 | 500)));
    assert_eq!(
        (world.hedges("sent"), world.hedges("won")),
        (sent_ms.len() as u64, won),
        "{own:?} {hedges:?}"
    );
}

const CLOSED: Result<u16, ErrorKind> = Err(ErrorKind::UpstreamClosed);

#[tokio::test(start_paused = true)]
async fn the_first_acceptable_answer_wins_and_hedges_are_sent_one_after_the_other() {
    check(Answers(99, 200), &[], 0, Ok(200), 99, &[]).await;
    check(Answers(150, 200), &[Hangs], 0, Ok(200), 150, &[100]).await;
    check(Hangs, &[Answers(120, 200)], 1, Ok(200), 120, &[100]).await;
    check(Hangs, &[Hangs, Answers(250, 200)], 2, Ok(200), 250, &[100, 200]).await;
    check(Hangs, &[Answers(900, 200), Hangs], 1, Ok(200), 900, &[100, 200]).await;
    // Without a retry policy's word for it, an error is an answer.
    check(Hangs, &[Answers(120, 500)], 1, Ok(500), 120, &[100]).await;
}

#[tokio::test(start_paused = true)]
async fn what_would_be_retried_does_not_win_while_another_try_is_under_way() {
    // The hedge's 503 is passed over, and the next hedge sent at once.
    check(Answers(300, 200), &[Answers(120, 503), Hangs], 0, Ok(200), 300, &[100, 120]).await;
    check(Hangs, &[Answers(120, 503), Answers(140, 200)], 2, Ok(200), 140, &[100, 120]).await;
    check(Answers(110, 503), &[Answers(130, 200), Hangs], 1, Ok(200), 130, &[100, 110]).await;
    // The last that is under way has nobody to wait for.
    check(Answers(110, 503), &[Answers(120, 503), Answers(130, 503)], 2, Ok(503), 130, &[100, 110]).await;
    check(Answers(90, 503), &[], 0, Ok(503), 90, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn nor_does_what_a_fallback_replaces() {
    let world = World::new(4, &format!("{TWICE}, fallback: {{answer: {{}}, on: [error5xx]}}"));
    let outcome = world.run(Answers(300, 200), &[Answers(120, 500), Hangs], true).await.unwrap();
    assert_eq!((outcome.by, outcome.result, outcome.sent_ms), (0, Ok(200), vec![100, 120]));
}

#[tokio::test(start_paused = true)]
async fn a_failure_never_wins_while_another_try_is_under_way() {
    check(Fails(150), &[Answers(180, 200), Hangs], 1, Ok(200), 180, &[100, 150]).await;
    check(Hangs, &[Fails(110), Answers(130, 200)], 2, Ok(200), 130, &[100, 110]).await;
    check(Answers(400, 200), &[Fails(110), Fails(120)], 0, Ok(200), 400, &[100, 110]).await;
    check(Fails(150), &[Fails(160), Fails(170)], usize::MAX, CLOSED, 170, &[100, 150]).await;
    check(Fails(50), &[], 0, CLOSED, 50, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_not_come_completely_is_not_hedged() {
    let world = World::new(4, TWICE);
    let outcome = world.run(Answers(900, 200), &[Answers(101, 200)], false).await.unwrap();
    assert_eq!((outcome.by, outcome.sent_ms), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_nothing_is_prepared() {
    assert_eq!(World::new(4, "retry: {}").run(Answers(900, 200), &[], true).await, None);
}

#[tokio::test(start_paused = true)]
async fn hedges_are_paid_for_like_retries() {
    async fn check(what: &str, world: World, sent: usize, why: &str) {
        let outcome = world.run(Answers(900, 200), &[], true).await.unwrap();
        assert_eq!(outcome.sent_ms.len(), sent, "{what}");
        assert_eq!(world.hedges(why), 1, "{what}");
    }
    let hedge = "hedge: {after: 1ms, max: 5}";
    check("other endpoints", World::new(3, hedge), 2, "no_endpoint").await;
    check("none", World::new(1, hedge), 0, "no_endpoint").await;
    let budget = format!("{hedge}, retry: {{budget: {{percent: 0, minRetriesPerSecond: 1}}}}");
    check("a budget", World::new(4, &budget), 1, "budget").await;
    let crowd = format!("{hedge}, concurrency: {{maxRequests: 3}}");
    check("requests at a time", World::new(4, &crowd), 2, "overflow").await;
    let limits = PoolLimits { max_requests: Some(2), ..PoolLimits::default() };
    check("places at the service", World::limited(4, hedge, limits), 2, "overflow").await;
    let late = format!("{hedge}, timeout: 1ms");
    check("time", World::new(4, &late), 0, "too_late").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_added_to_the_probes_of_a_breaker() {
    let breaker =
        "circuitBreaker: {errorRate: {percent: 1, minimumRequests: 1}, openFor: 1ms, halfOpenRequests: 1}";
    let world = World::new(4, &format!("{TWICE}, {breaker}"));
    let snapshot = world.conn.pod.worker.snapshot.load_full();
    let breaker = snapshot.traffic_of(&world.port).unwrap().breaker.clone().unwrap();
    breaker.admit(0).unwrap().settle(true, Duration::ZERO, 0);
    let outcome = world.run(Answers(900, 200), &[], true).await.unwrap();
    assert_eq!(outcome.sent_ms, Vec::<u128>::new());
    assert_eq!(world.hedges("overflow"), 1);
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_blamed() {
    async fn check(own: Goes, hedges: &[Goes], ejected: usize) {
        let world = World::new(4, TWICE);
        world.run(own, hedges, true).await.unwrap();
        assert_eq!(world.ejected(), ejected, "{own:?} {hedges:?}");
    }
    check(Hangs, &[Hangs, Answers(250, 200)], 0).await;
    check(Answers(250, 200), &[Hangs, Hangs], 0).await;
    check(Answers(250, 200), &[Fails(110), Hangs], 1).await;
    check(Answers(250, 200), &[Answers(110, 503), Hangs], 1).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_loses_is_given_up_at_once_and_gives_its_places_back() {
    struct Gone(Rc<Cell<usize>>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let world = World::new(4, &format!("{TWICE}, concurrency: {{maxRequests: 9}}"));
    let snapshot = world.conn.pod.worker.snapshot.load_full();
    let concurrency = snapshot.traffic_of(&world.port).unwrap().concurrency.clone().unwrap();
    let mut head = http::Request::new(()).into_parts().0;
    let mut account = Exchange::begin(&world.conn, &mut head);
    let plan = world.conn.plan(&mut head, &mut account).unwrap();
    let mut tries = Tries::new(&world.conn, &plan);
    let own = tries.pick_now(&head).unwrap();
    let gone = Rc::new(Cell::new(0));
    let started = Cell::new(0);
    let start = |granted: Granted| -> Run<'_, ()> {
        started.set(started.get() + 1);
        let (answers, gone) = (started.get() == 2, Gone(gone.clone()));
        Box::pin(granted.run(async move |_| {
            let _gone = gone;
            if answers { Ok((StatusCode::OK, None, ())) } else { pending().await }
        }))
    };
    let mut race: Box<Hedges<'_, ()>> = Hedges::of(&plan, &head).unwrap();
    let (tries, account) = (&mut tries, &mut account);
    let mut asking = Asking { tries, account, head: &head, whole: true, own: true };
    assert!(race.beside(pending::<()>(), &mut asking, start).await.is_none());
    assert_eq!(gone.get(), 2, "the winner has come to its end, the loser is no more");
    assert_eq!(concurrency.in_flight(), 2, "the request and the winner");
    let Race::Won(ahead) = race.rest(&mut asking, start).await else { unreachable!() };
    let addresses = [&own, &ahead.granted.picked].map(|picked| picked.upstream.endpoint.addr);
    assert_ne!(addresses[0], addresses[1]);
    drop(ahead);
    assert_eq!(concurrency.in_flight(), 1);
}
