//! A cookie that is hashed: who is given one, and that it leads back to the same endpoint.

use std::sync::Arc;

use super::*;
use crate::model::LoadBalancer;
use crate::policy::{ClusterPolicy, Cookie, HashKey};
use crate::proxy::Backends;

async fn lab_with(attributes: Option<&str>) -> (Lab, [TcpListener; 2]) {
    let endpoints =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let mut port = testing::service_port("hashed", &endpoints.each_ref().map(|e| e.local_addr().unwrap()));
    let cookie = Cookie { name: "user".into(), attributes: attributes.map(str::to_owned) };
    Arc::get_mut(&mut port).unwrap().policy = Arc::new(ClusterPolicy {
        load_balancer: LoadBalancer::RingHash,
        table_size: 1024,
        hash: Some(HashKey::Cookie(cookie)),
        ..ClusterPolicy::default()
    });
    let lab = lab().await;
    lab.conn.set_backends(Backends::Service(port));
    (lab, endpoints)
}

/// Answers one request wherever it comes; which endpoint, and what the client got.
async fn ask(lab: &mut Lab, endpoints: &[TcpListener; 2], cookie: &str) -> (usize, String) {
    lab.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{cookie}\r\n")).await;
    let (at, (mut server, _)) = tokio::select! {
        accepted = endpoints[0].accept() => (0, accepted.unwrap()),
        accepted = endpoints[1].accept() => (1, accepted.unwrap()),
    };
    head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    (at, head(&mut lab.client).await)
}

fn given(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("set-cookie: "))
}

#[test]
fn a_client_without_the_cookie_is_given_one_that_keeps_it_at_its_endpoint() {
    run(async {
        let (mut lab, endpoints) = lab_with(Some("; Max-Age=60; Path=/; HttpOnly")).await;
        let mut values = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let (first, answer) = ask(&mut lab, &endpoints, "").await;
            let cookie = given(&answer).expect(&answer);
            let (pair, attributes) = cookie.split_once(';').unwrap();
            assert_eq!(attributes, " Max-Age=60; Path=/; HttpOnly");
            for _ in 0..3 {
                let (again, answer) = ask(&mut lab, &endpoints, &format!("Cookie: {pair}\r\n")).await;
                assert_eq!((again, given(&answer)), (first, None), "{pair}");
            }
            values.insert(pair.to_owned());
        }
        assert_eq!(values.len(), 20, "each client has a value of its own");
    });
}

#[test]
fn without_a_lifetime_no_cookie_is_given_out() {
    run(async {
        let (mut lab, endpoints) = lab_with(None).await;
        assert_eq!(given(&ask(&mut lab, &endpoints, "").await.1), None);
    });
}
