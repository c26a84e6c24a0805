//! Calls that are sent to another endpoint as well for being slow, and what goes to a fallback's service.

use h2::Reason;

use super::*;
use crate::proxy::testing;

/// Endpoint and body of each request, when it had come completely.
type Came = Rc<RefCell<Vec<(usize, Vec<u8>)>>>;
/// What endpoints do with a request, by how many came before it.
type Script = Rc<dyn Fn(usize) -> Does>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// Answers with 200, its number as the body.
    Answers,
    /// Says 503.
    Busy,
    /// The gRPC status, without a body.
    Grpc(&'static str),
    /// Says nothing.
    Hangs,
    /// Begins an answer, and says no more.
    Begins,
}

/// A proxy to a service of some endpoints under a policy, and a client of it.
struct Many {
    proxy: Proxy,
    client: SendRequest<Bytes>,
    came: Came,
    /// Requests that endpoints were told to forget.
    resets: Rc<RefCell<Vec<Option<Reason>>>>,
}

async fn endpoint(number: usize, begun: Rc<Cell<usize>>, script: Script, many: &Many) -> Endpoint {
    let (came, resets) = (many.came.clone(), many.resets.clone());
    Endpoint::start(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let (script, came, resets) = (script.clone(), came.clone(), resets.clone());
        let does = script(begun.replace(begun.get() + 1));
        async move {
            let mut body = request.into_body();
            let Ok((whole, _)) = collect(&mut body).await else { return };
            came.borrow_mut().push((number, whole));
            let head = |status: u16| Response::builder().status(status);
            match does {
                Does::Answers => reply(respond, "ok"),
                Does::Busy => drop(respond.send_response(head(503).body(()).unwrap(), true)),
                Does::Grpc(status) => {
                    let answer = head(200).header("grpc-status", status).body(()).unwrap();
                    drop(respond.send_response(answer, true));
                }
                Does::Begins => {
                    let mut stream = respond.send_response(head(200).body(()).unwrap(), false).unwrap();
                    let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                    resets.borrow_mut().push(reason.ok());
                }
                Does::Hangs => {
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    resets.borrow_mut().push(reason.ok());
                }
            }
        }
    })
    .await
}

async fn many(count: usize, groups: &str, script: impl Fn(usize) -> Does + 'static) -> Many {
    let proxy = Proxy::to(([127, 0, 0, 1], 1).into()).await;
    let client = proxy.client().await;
    eventually("a connection", || !proxy.conns.borrow().is_empty()).await;
    let many = Many { proxy, client, came: Rc::default(), resets: Rc::default() };
    let (begun, script): (_, Script) = (Rc::new(Cell::new(0)), Rc::new(script));
    let mut addresses = Vec::new();
    for number in 0..count {
        addresses.push(endpoint(number, begun.clone(), script.clone(), &many).await.addr);
    }
    testing::police(&many.proxy.conn(), testing::service_port("many", &addresses), groups);
    many
}

impl Many {
    fn count(&self, outcome: &str) -> u64 {
        let conn = self.proxy.conn();
        conn.pod.worker.telemetry.metrics.agent().hedges.with_label_values(&[outcome]).get()
    }

    /// Sends a request with a body and waits for the whole answer.
    async fn ask(&self, request: Request<()>, body: &[u8]) -> (u16, Vec<u8>, Option<String>) {
        let (response, mut up) = send(&self.client, request, body.is_empty()).await;
        if !body.is_empty() {
            up.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        let response = response.await.unwrap();
        let grpc = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        (status, collect(&mut response.into_body()).await.unwrap().0, grpc)
    }
}

const HEDGE: &str = "hedge: {after: 50ms, max: 1}";

#[test]
fn a_hedge_that_answers_first_is_passed_on_and_the_slow_try_cancelled() {
    // Beyond a stream's window, so that the hedge has to wait for room.
    let long = vec![b'x'; 400_000];
    for (body, policy) in [
        (&b""[..], HEDGE.to_owned()),
        (b"hello", HEDGE.to_owned()),
        (&long, format!("{HEDGE}, retry: {{bufferLimit: 1000000}}")),
    ] {
        let body = body.to_vec();
        run(async move {
            let many = many(2, &policy, |n| if n == 0 { Does::Hangs } else { Does::Answers }).await;
            let (status, answer, _) = many.ask(post("/"), &body).await;
            assert_eq!((status, answer), (200, b"ok".to_vec()), "{}", body.len());
            eventually("the cancellation", || *many.resets.borrow() == [Some(Reason::CANCEL)]).await;
            let came = many.came.borrow().clone();
            assert!(came.len() == 2 && came[0].0 != came[1].0, "both endpoints");
            assert!(came.iter().all(|(_, got)| *got == body), "each got the whole body");
            assert_eq!((many.count("sent"), many.count("won")), (1, 1));
        });
    }
}

#[test]
fn a_try_that_answers_before_its_hedge_is_passed_on_and_the_hedge_cancelled() {
    run(async {
        let many = many(2, HEDGE, |n| if n == 1 { Does::Hangs } else { Does::Begins }).await;
        let (response, _) = send(&many.client, get("/"), true).await;
        let response = response.await.unwrap();
        // It has begun before a hedge was due, and no more is sent.
        assert_eq!(response.status(), 200);
        // Four times what a hedge waits for. Real, since h2's exchanges let a paused clock run on.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((many.count("sent"), many.came.borrow().len()), (0, 1));
    });
    run(async {
        let late = Rc::new(Notify::new());
        let answers = late.clone();
        let slow = Endpoint::start(move |request: Request<RecvStream>, respond| {
            let answers = answers.clone();
            async move {
                let _request = request;
                answers.notified().await;
                reply(respond, "slow");
            }
        })
        .await;
        let many = many(0, HEDGE, |_| Does::Hangs).await;
        let other = endpoint(1, Rc::default(), Rc::new(|_| Does::Hangs), &many).await;
        // Whichever is asked first: only one of them ever answers.
        testing::police(&many.proxy.conn(), testing::service_port("both", &[slow.addr, other.addr]), HEDGE);
        let (response, _) = send(&many.client, get("/"), true).await;
        eventually("a hedge", || slow.requests.get() + other.requests.get() == 2).await;
        late.notify_one();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(collect(&mut body).await.unwrap().0, b"slow");
        eventually("the cancellation", || *many.resets.borrow() == [Some(Reason::CANCEL)]).await;
    });
}

#[test]
fn a_client_that_takes_its_request_back_cancels_its_hedges_too() {
    run(async {
        let many = many(3, "hedge: {after: 20ms, max: 2}", |_| Does::Hangs).await;
        let (response, mut up) = send(&many.client, post("/"), false).await;
        up.send_data(Bytes::from_static(b"x"), true).unwrap();
        eventually("all tries", || many.came.borrow().len() == 3).await;
        up.send_reset(Reason::CANCEL);
        drop(response);
        eventually("all cancelled", || *many.resets.borrow() == [Some(Reason::CANCEL); 3]).await;
    });
}

#[test]
fn a_call_that_is_still_streaming_is_not_hedged() {
    run(async {
        let many = many(2, HEDGE, |_| Does::Answers).await;
        let (response, mut up) = send(&many.client, grpc("/shop.Cart/Add"), false).await;
        up.send_data(Bytes::from_static(b"half"), false).unwrap();
        // Four times what a hedge waits for. Real, since h2's exchanges let a paused clock run on.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(many.count("sent"), 0);
        up.send_data(Bytes::new(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(many.came.borrow().len(), 1);
    });
}

#[test]
fn a_status_that_would_be_retried_leaves_the_answer_to_another_try() {
    let policy = "hedge: {after: 50ms, max: 2}, retry: {attempts: 1, on: [unavailable], statusCodes: [503], backoff: {base: 1ms}}";
    run(async {
        let many = many(3, policy, |n| [Does::Hangs, Does::Grpc("14"), Does::Grpc("0")][n]).await;
        let (_, _, status) = many.ask(grpc("/shop.Cart/Get"), b"").await;
        assert_eq!((status.as_deref(), many.count("sent"), many.count("won")), (Some("0"), 2, 1));
    });
    // All fail: a retry, then what it came to.
    run(async {
        let many = many(4, policy, |_| Does::Busy).await;
        let (status, _, _) = many.ask(get("/"), b"").await;
        assert_eq!((status, many.came.borrow().len()), (503, 2));
    });
}

const FALLBACK: &str =
    "timeout: 500ms, fallback: {service: {name: spare, namespace: test, port: 80}, on: [error5xx, timeout]}";

#[test]
fn another_service_answers_what_failed_with_the_whole_request() {
    for does in [Does::Busy, Does::Hangs, Does::Grpc("14")] {
        run(async move {
            let many = many(1, FALLBACK, move |_| does).await;
            let spare = endpoint(9, Rc::default(), Rc::new(|_| Does::Grpc("0")), &many).await;
            testing::serve(&many.proxy.conn(), &testing::service_port("spare", &[spare.addr]));
            let (_, _, status) = many.ask(grpc("/shop.Cart/Get"), b"\0\0\0\0\x01x").await;
            assert_eq!(status.as_deref(), Some("0"), "{does:?}");
            let came = many.came.borrow().clone();
            assert_eq!(came, [(0, b"\0\0\0\0\x01x".to_vec()), (9, b"\0\0\0\0\x01x".to_vec())], "{does:?}");
        });
    }
}

#[test]
fn what_cant_be_sent_again_gets_the_answer_that_there_is() {
    run(async {
        let many =
            many(1, &format!("{FALLBACK}, retry: {{attempts: 0, bufferLimit: 4}}"), |_| Does::Busy).await;
        let spare = endpoint(9, Rc::default(), Rc::new(|_| Does::Answers), &many).await;
        testing::serve(&many.proxy.conn(), &testing::service_port("spare", &[spare.addr]));
        assert_eq!(many.ask(post("/"), b"hello").await.0, 503);
        assert_eq!(many.ask(post("/"), b"hi").await.0, 200);
    });
}
