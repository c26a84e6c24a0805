//! A DestinationRule's limits where requests go over HTTP/2: those of its connections hold, those of HTTP/1 don't.

use super::*;
use crate::policy::PoolLimits;

/// Clients of an endpoint under these limits.
async fn limited(addr: std::net::SocketAddr, limits: PoolLimits) -> (Over, Arc<ServicePort>) {
    let mut port = testing::limited_port(&[addr], limits);
    let policy = ClusterPolicy { over_http2: true, limits, ..ClusterPolicy::default() };
    Arc::get_mut(&mut port).unwrap().policy = Arc::new(policy);
    let over = Over::to(addr).await;
    over.conn.set_backends(Backends::Service(port.clone()));
    (over, port)
}

async fn answering() -> Endpoint {
    Endpoint::start(|_, respond| async move { reply(respond, "ok") }).await
}

#[test]
fn a_request_that_goes_over_http2_waits_for_no_connection_of_http1() {
    run(async {
        let endpoint = answering().await;
        let limits = PoolLimits { max_connections: Some(1), max_pending: Some(0), ..PoolLimits::default() };
        let (mut over, port) = limited(endpoint.addr, limits).await;
        let places = &port.endpoints.usage.connections;
        let _only = places.take().unwrap();
        over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(head(&mut over.client).await.starts_with("HTTP/1.1 200 "));
        assert_eq!((places.taken(), places.waiting()), (1, 0));
        // What leaves HTTP behind stays on a connection of HTTP/1, which isn't to be had.
        let mut client = over.another().await;
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(upgrade.as_bytes()).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(endpoint.connections.get(), 1);
    });
}

#[test]
fn its_connections_carry_what_the_rule_allows_them() {
    run(async {
        let endpoint = answering().await;
        let few = PoolLimits { max_requests_per_connection: Some(2), ..PoolLimits::default() };
        let (mut over, _) = limited(endpoint.addr, few).await;
        for _ in 0..6 {
            over.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
            expect(&mut over.client, chunked).await;
        }
        assert_eq!(endpoint.connections.get(), 3);
        let endpoint = Endpoint::start(|request, respond| async move {
            std::future::pending::<()>().await;
            drop((request, respond));
        })
        .await;
        let narrow = PoolLimits { max_streams: Some(1), ..PoolLimits::default() };
        let (over, _) = limited(endpoint.addr, narrow).await;
        let mut clients = [over.another().await, over.another().await];
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        }
        endpoint.has(2).await;
        assert_eq!(endpoint.connections.get(), 2);
    });
}
