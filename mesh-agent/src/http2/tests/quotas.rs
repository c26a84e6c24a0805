//! How much one connection to an endpoint may carry, as a DestinationRule says.

use http::StatusCode;

use super::*;

async fn endpoint() -> Endpoint {
    Endpoint::start(|_, respond| async move { reply(respond, "ok") }).await
}

/// So many requests, one after the other; how many connections they took.
async fn connections(limits: PoolLimits, requests: usize) -> usize {
    let endpoint = endpoint().await;
    let client = Proxy::limited(endpoint.addr, limits).await.client().await;
    for _ in 0..requests {
        let (response, _) = send(&client, get("/"), true).await;
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    }
    endpoint.connections.get()
}

#[test]
fn a_connection_has_its_share_of_requests_and_its_age() {
    run(async {
        let few = PoolLimits { max_requests_per_connection: Some(2), ..PoolLimits::default() };
        assert_eq!(connections(few, 6).await, 3);
        let short = PoolLimits { max_connection_duration: Some(Duration::ZERO), ..PoolLimits::default() };
        assert_eq!(connections(short, 3).await, 3);
        assert_eq!(connections(PoolLimits::default(), 6).await, 1);
    });
}

#[test]
fn requests_at_the_same_time_take_as_many_connections_as_their_number_needs() {
    run(async {
        let endpoint = Endpoint::start(|request, respond| async move {
            std::future::pending::<()>().await;
            drop((request, respond));
        })
        .await;
        let limits = PoolLimits { max_streams: Some(2), ..PoolLimits::default() };
        let client = Proxy::limited(endpoint.addr, limits).await.client().await;
        let mut under_way = Vec::new();
        // More connections than the agent opens where the peer's own limit is reached.
        for _ in 0..40 {
            under_way.push(send(&client, get("/"), true).await);
        }
        endpoint.has(40).await;
        assert_eq!(endpoint.connections.get(), 20);
    });
}

#[test]
fn a_worn_connection_finishes_what_is_on_it() {
    run(async {
        let go = Rc::new(Notify::new());
        let wait = go.clone();
        let endpoint = Endpoint::start(move |_, respond| {
            let wait = wait.clone();
            async move {
                wait.notified().await;
                reply(respond, "ok");
            }
        })
        .await;
        let limits = PoolLimits { max_requests_per_connection: Some(1), ..PoolLimits::default() };
        let client = Proxy::limited(endpoint.addr, limits).await.client().await;
        let first = send(&client, get("/"), true).await;
        endpoint.has(1).await;
        let second = send(&client, get("/"), true).await;
        endpoint.has(2).await;
        assert_eq!(endpoint.connections.get(), 2);
        for (response, _) in [first, second] {
            go.notify_one();
            go.notify_one();
            assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        }
    });
}
