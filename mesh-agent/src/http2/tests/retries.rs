//! Requests that are sent again: with what body, by which deadline, and when not.

use http::StatusCode;

use super::*;
use crate::proxy::testing;
use crate::route::{RetryOn, RetryPolicy, Rule, Timeouts};

/// What endpoints were sent, whole bodies only.
type Bodies = Rc<RefCell<Vec<Vec<u8>>>>;

/// How an endpoint takes its first request; later ones are answered with 200 and `ok`.
#[derive(Clone, Copy)]
enum First {
    /// 503 as soon as something of the body has come.
    BusyAtOnce,
    /// 503 after the body.
    Busy,
    Silence,
    /// 200 and part of a body, then a reset.
    Part,
}

/// A proxy to two endpoints, the first request to either of which meets `first`, and a client of it.
struct Two {
    client: SendRequest<Bytes>,
    requests: Rc<Cell<usize>>,
    bodies: Bodies,
    /// The first request was met.
    met: Rc<Notify>,
}

async fn two(first: First, attempts: u32, timeouts: Timeouts) -> Two {
    let (requests, bodies, met) = (Rc::new(Cell::new(0)), Bodies::default(), Rc::new(Notify::new()));
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let (requests, bodies, met) = (requests.clone(), bodies.clone(), met.clone());
        let endpoint = Endpoint::start(move |request: Request<RecvStream>, respond| {
            requests.set(requests.get() + 1);
            let silent = matches!(first, First::Silence) && attempts > 1;
            let first = (requests.get() == 1 || silent).then_some(first);
            answer(first, request, respond, bodies.clone(), met.clone())
        });
        addresses.push(endpoint.await.addr);
    }
    let proxy = Proxy::to(addresses[0]).await;
    let client = proxy.client().await;
    eventually("a connection", || !proxy.conns.borrow().is_empty()).await;
    let on = RetryOn { reset: true, statuses: vec![StatusCode::SERVICE_UNAVAILABLE], ..RetryOn::default() };
    let backoff = Duration::from_millis(1);
    let retry = Some(RetryPolicy {
        attempts,
        on,
        least_wait: Duration::ZERO,
        backoff,
        max_backoff: backoff,
        per_try: None,
    });
    let rule = Rule { timeouts, retry, ..testing::rule(&[0]) };
    testing::route(&proxy.conn(), rule, &[testing::service_port("two", &addresses)]);
    Two { client, requests, bodies, met }
}

async fn answer(
    first: Option<First>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    bodies: Bodies,
    met: Rc<Notify>,
) {
    let busy = || Response::builder().status(503).body(()).unwrap();
    let mut body = request.into_body();
    match first {
        Some(First::BusyAtOnce) => {
            body.data().await.unwrap().unwrap();
            respond.send_response(busy(), true).unwrap();
            met.notify_one();
        }
        Some(First::Silence) => std::future::pending().await,
        Some(First::Part) => {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"part"), false).unwrap();
            met.notified().await;
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        Some(First::Busy) | None => {
            let Ok((whole, _)) = collect(&mut body).await else { return };
            bodies.borrow_mut().push(whole);
            match first {
                Some(_) => drop(respond.send_response(busy(), true)),
                None => reply(respond, "ok"),
            }
        }
    }
}

#[test]
fn a_body_that_is_still_arriving_is_sent_again_from_its_beginning() {
    run(async {
        let two = two(First::BusyAtOnce, 1, Timeouts::default()).await;
        let (response, mut up) = send(&two.client, post("/"), false).await;
        up.send_data(Bytes::from_static(b"one, "), false).unwrap();
        two.met.notified().await;
        eventually("another try", || two.requests.get() == 2).await;
        up.send_data(Bytes::from_static(b"two"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(collect(&mut response.into_body()).await.unwrap().0, b"ok");
        assert_eq!(*two.bodies.borrow(), [b"one, two"]);
    });
}

#[test]
fn a_body_is_sent_again_if_it_fits_the_buffer() {
    for (size, again) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        run(async {
            let two = two(First::Busy, 1, Timeouts::default()).await;
            let (response, mut up) = send(&two.client, post("/"), false).await;
            up.send_data(Bytes::from(vec![b'x'; size]), true).unwrap();
            assert_eq!(response.await.unwrap().status(), if again { 200 } else { 503 }, "{size}");
            assert_eq!(*two.bodies.borrow(), vec![vec![b'x'; size]; 1 + usize::from(again)]);
        });
    }
}

#[test]
fn a_try_that_takes_too_long_is_followed_by_one_at_another_endpoint() {
    run(async {
        let limit = Some(Duration::from_millis(1500));
        let two = two(First::Silence, 1, Timeouts { request: None, backend_request: limit }).await;
        let (response, mut up) = send(&two.client, post("/"), false).await;
        up.send_data(Bytes::from_static(b"body"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(*two.bodies.borrow(), [b"body"]);
    });
}

#[test]
fn the_requests_deadline_bounds_all_tries_together() {
    run(async {
        let timeouts = Timeouts {
            request: Some(Duration::from_millis(500)),
            backend_request: Some(Duration::from_millis(150)),
        };
        let two = two(First::Silence, 1000, timeouts).await;
        let began = Instant::now();
        let (response, _) = send(&two.client, get("/"), true).await;
        assert_eq!(response.await.unwrap().status(), 504);
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        assert!((1..=4).contains(&two.requests.get()), "{} tries", two.requests.get());
    });
}

#[test]
fn nothing_is_sent_again_once_the_response_has_begun() {
    run(async {
        let two = two(First::Part, 3, Timeouts::default()).await;
        let (response, _) = send(&two.client, get("/"), true).await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "part");
        two.met.notify_one();
        assert_eq!(body.data().await.unwrap().unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
        assert_eq!(two.requests.get(), 1);
    });
}
