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
                    // So much of the deadline is used up.
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

#[test]
fn another_try_is_told_what_is_left_of_the_deadline() {
    run(async {
        let (told, answered) = tried("50S", Duration::from_millis(20)).await;
        assert!(answered);
        assert_eq!(told[0], "50S");
        let left: u64 = told[1].strip_suffix('u').unwrap().parse().unwrap();
        assert!(left <= 49_980_000, "{left}");
        assert_eq!(told.len(), 2);
    });
}

#[test]
fn what_nobody_waits_for_is_not_sent_again() {
    run(async {
        let (told, answered) = tried("10m", Duration::from_millis(20)).await;
        assert_eq!((told, answered), (vec!["10m".to_owned()], false));
    });
}
