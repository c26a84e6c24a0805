//! DestinationRule's loadBalancer beyond the choice of an endpoint: a cookie that is given out, and PASSTHROUGH.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;

use http::Request;
use mesh_tests::http1::echo_server;
use mesh_tests::http2::{H2Server, answer, with_client};
use mesh_tests::policy::destination_rule;
use mesh_tests::shop::NAMESPACE;
use mesh_tests::{need_shop, shared_shop};

shared_shop!("drdestination");

#[test]
fn a_client_without_the_hashed_cookie_is_given_one_that_keeps_it() {
    let shop = need_shop!();
    let cookie = "loadBalancer: {consistentHash: {httpCookie: {name: home, ttl: 60s, path: /shop}}}";
    let service = shop.http_under_rule("cookie", "http", 3, cookie).unwrap();
    let mut homes = BTreeSet::new();
    for _ in 0..30 {
        let mut client = shop.client(&service).unwrap();
        let first = client.get("c", "/").unwrap();
        let given = first.header("set-cookie").expect("a cookie").to_owned();
        let (pair, attributes) = given.split_once(';').unwrap();
        assert!(pair.starts_with("home="), "{given}");
        assert_eq!(attributes, " Max-Age=60; Path=/shop; HttpOnly");
        for _ in 0..3 {
            let again = client.get_with("c", "/", &format!("Cookie: a=b; {pair}")).unwrap();
            assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None));
        }
        homes.insert(first.text());
    }
    assert_eq!(homes.len(), 3, "chance spreads those that bring none: {homes:?}");
}

#[test]
fn a_cookie_without_a_lifetime_is_one_of_the_session_and_without_ttl_there_is_none() {
    let shop = need_shop!();
    let session = "loadBalancer: {consistentHash: {httpCookie: {name: home, ttl: 0s, attributes: [{name: SameSite, value: Lax}]}}}";
    let service = shop.http_under_rule("session", "http", 2, session).unwrap();
    let given = shop.get(&service, "/").unwrap().header("set-cookie").unwrap().to_owned();
    assert!(given.ends_with("\"; HttpOnly; SameSite=Lax"), "{given}");
    let none = "loadBalancer: {consistentHash: {httpCookie: {name: home}}}";
    let service = shop.http_under_rule("nocookie", "http", 2, none).unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().header("set-cookie"), None);
}

#[test]
fn an_http2_client_is_given_the_cookie_too() {
    let shop = need_shop!();
    let port = shop.port();
    let handle = |_, mut respond| async move { answer(&mut respond, "", None) };
    let _server = H2Server::new(shop.carts[0].listen(port).unwrap(), None, handle);
    let rule = "loadBalancer: {consistentHash: {httpCookie: {name: home, ttl: 60s}}}";
    let rule = destination_rule(NAMESPACE, "cookie2", rule).unwrap();
    shop.topology.mesh().write("policy-cookie2.yaml", [rule]).unwrap();
    let service = shop.expose("cookie2", "http2", port, &[&shop.carts[0]]).unwrap();
    let given = with_client(shop.web.connect(service.at()).unwrap(), async |client| {
        let request = Request::get("http://c/").body(())?;
        let (response, _) = client.clone().ready().await?.send_request(request, true)?;
        Ok(response.await?.headers().get("set-cookie").map(|line| line.to_str().unwrap().to_owned()))
    })
    .unwrap();
    assert!(given.as_ref().is_some_and(|line| line.starts_with("home=\"")), "{given:?}");
}

#[test]
fn passthrough_goes_to_the_address_that_was_dialled() {
    let shop = need_shop!();
    for (name, port_name) in [("original", "http"), ("originaltcp", "tcp"), ("originaldetect", "")] {
        let service =
            shop.http_under_rule(name, port_name, 1, "loadBalancer: {simple: PASSTHROUGH}").unwrap();
        // What stands behind a Service's address without the agent: kube-proxy, here a host that has it.
        let (vip, host) = (service.v4, &shop.outside);
        host.netns().ip(&format!("addr add {vip}/32 dev lo\n")).unwrap();
        shop.web.netns().ip(&format!("route add {vip}/32 via {} dev eth0\n", host.v4())).unwrap();
        let (_server, seen) = echo_server(host.listen_at(service.at()).unwrap(), "whoever has the address");
        let answer = shop.get(&service, "/").unwrap();
        assert_eq!((answer.status(), &*answer.text()), (200, "whoever has the address"), "{name}");
        assert_eq!((seen.count(), service.counts()), (1, vec![0]));
    }
}
