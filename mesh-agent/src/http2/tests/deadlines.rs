//! gRPC's deadline over several tries: what another endpoint is told is left, and the end of it.

use super::*;
use crate::proxy::testing;
use crate::route::{RetryOn, RetryPolicy};

/// Two endpoints of a service, the one that is asked first refuses after `pause`. What the others were told.
async fn tried(timeout: &str, pause: Duration) -> (Vec<String>, bool) {
    let told: Rc<RefCell<Vec<String>>> = Rc::default();
    let mut addrs = Vec::new();
    for _ in 0..2 {
        let told = told.clone();
        let endpoint =
            Endpoint::start(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                let told = told.clone();
                async move {
                    let value = request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
                    told.borrow_mut().push(value);
                    if told.borrow().len() > 1 {
                        return reply(respond, "done");
                    }
                    // A server that takes its time: so much of the deadline is used up, on a real clock.
                    tokio::time::sleep(pause).await;
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            })
            .await;
        addrs.push(endpoint.addr);
    }
    let proxy = Proxy::to(addrs[0]).await;
    let client = proxy.client().await;
    eventually("a connection", || !proxy.conns.borrow().is_empty()).await;
    let mut rule = testing::rule(&[0]);
    rule.retry = Some(RetryPolicy {
        attempts: 3,
        on: RetryOn { reset: true, ..RetryOn::default() },
        least_wait: Duration::ZERO,
        backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
        per_try: None,
    });
    testing::route(&proxy.conn(), rule, &[testing::service_port("any", &addrs)]);
    let mut request = grpc("/shop.Cart/Get");
    request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    let (response, _) = send(&client, request, true).await;
    let answered = match response.await {
        Ok(mut response) => collect(response.body_mut()).await.is_ok_and(|(body, _)| body == b"done"),
        Err(_) => false,
    };
    let told = told.borrow().clone();
    (told, answered)
}

fn micros(told: &str) -> u64 {
    told.strip_suffix('u').unwrap().parse().unwrap()
}

#[test]
fn another_try_is_told_what_is_left_of_the_deadline() {
    run(async {
        let (told, answered) = tried("50S", Duration::from_millis(20)).await;
        assert!(answered);
        // Connecting may have taken some of it.
        assert!(told[0] == "50S" || micros(&told[0]) < 50_000_000, "{told:?}");
        assert!(micros(&told[1]) <= 49_980_000, "{told:?}");
        assert_eq!(told.len(), 2);
    });
}

#[test]
fn what_nobody_waits_for_is_not_sent_again() {
    run(async {
        let (told, answered) = tried("10m", Duration::from_millis(20)).await;
        assert!(told.len() <= 1 && !answered, "{told:?}");
    });
}

/// A proxy to a service port with this endpoint under a policy, and a client of it.
async fn under(endpoint: &Endpoint, groups: &str) -> (Proxy, SendRequest<Bytes>) {
    let proxy = Proxy::to(endpoint.addr).await;
    let client = proxy.client().await;
    eventually("a connection", || !proxy.conns.borrow().is_empty()).await;
    testing::police(&proxy.conn(), testing::service_port("any", &[endpoint.addr]), groups);
    (proxy, client)
}

/// The answer to a call with this deadline: its gRPC status, and after how long it came.
async fn call(client: &SendRequest<Bytes>, timeout: &str) -> (String, Duration) {
    let mut request = grpc("/shop.Cart/Get");
    request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    let began = Instant::now();
    let (response, _) = send(client, request, true).await;
    let status = response.await.unwrap().headers()["grpc-status"].to_str().unwrap().to_owned();
    (status, began.elapsed())
}

#[test]
fn the_deadline_of_a_call_ends_it_wherever_it_is() {
    run(async {
        let silent = Endpoint::start(|request, respond| async move {
            let _held = (request, respond);
            std::future::pending().await
        })
        .await;
        let (_proxy, client) = under(&silent, "timeout: 1h").await;
        let (status, took) = call(&client, "300m").await;
        assert_eq!(status, "4");
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert_eq!(silent.requests.get(), 1);
        // What is held back isn't sent once nobody waits for it.
        let delay = "faultInjection: {delay: {fixed: 1h}}";
        let (_proxy, client) = under(&silent, delay).await;
        assert_eq!(call(&client, "100m").await.0, "4");
        assert_eq!(silent.requests.get(), 1);
    });
}

#[test]
fn an_endpoint_is_told_what_waiting_and_a_policys_timeout_leave() {
    run(async {
        let told: Rc<RefCell<Vec<String>>> = Rc::default();
        let seen = told.clone();
        let endpoint =
            Endpoint::start(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                seen.borrow_mut().push(request.headers()["grpc-timeout"].to_str().unwrap().to_owned());
                let answer = Response::builder().header("grpc-status", "0").body(()).unwrap();
                respond.send_response(answer, true).unwrap();
                std::future::ready(())
            })
            .await;
        let (_proxy, client) = under(&endpoint, "faultInjection: {delay: {fixed: 50ms}}").await;
        assert_eq!(call(&client, "50S").await.0, "0");
        assert!(micros(&told.borrow()[0]) <= 49_950_000, "{told:?}");
        let (_proxy, client) = under(&endpoint, "timeout: 20s").await;
        assert_eq!(call(&client, "50S").await.0, "0");
        assert!(micros(&told.borrow()[1]) <= 20_000_000, "{told:?}");
    });
}
