//! Copies of requests: what a mirror gets over HTTP/2, and that nothing it does is seen by the client.

use super::*;
use crate::proxy::testing;
use crate::route::Mirror;

/// What an endpoint was sent: path, `x-env`, body.
type Seen = Rc<RefCell<Vec<(String, Option<String>, Vec<u8>)>>>;

async fn recorder(body: &'static str) -> (Endpoint, Seen) {
    let seen = Seen::default();
    let noted = seen.clone();
    let endpoint = Endpoint::start(move |request: Request<RecvStream>, respond| {
        let noted = noted.clone();
        async move {
            let (parts, mut from) = request.into_parts();
            let Ok((got, _)) = collect(&mut from).await else { return };
            let env = parts.headers.get("x-env").map(|value| value.to_str().unwrap().to_owned());
            noted.borrow_mut().push((parts.uri.path().to_owned(), env, got));
            reply(respond, body);
        }
    })
    .await;
    (endpoint, seen)
}

async fn mirrored(main: &Endpoint, mirrors: &[SocketAddr]) -> (Proxy, SendRequest<Bytes>) {
    let proxy = Proxy::to(main.addr).await;
    let client = proxy.client().await;
    eventually("a connection", || !proxy.conns.borrow().is_empty()).await;
    let mut rule = testing::rule(&[0]);
    rule.filters.request.set.push(("x-env".parse().unwrap(), "test".parse().unwrap()));
    rule.filters.mirrors =
        (1..=mirrors.len()).map(|target| Mirror { target, numerator: 1, denominator: 1 }).collect();
    let ports: Vec<_> =
        [main.addr].iter().chain(mirrors).map(|addr| testing::service_port("any", &[*addr])).collect();
    testing::route(&proxy.conn(), rule, &ports);
    (proxy, client)
}

async fn counted(proxy: &Proxy, outcome: &str, count: u64) {
    let conn = proxy.conn();
    let metrics = conn.pod.worker.telemetry.metrics.agent();
    eventually(outcome, || metrics.mirrored_requests.with_label_values(&[outcome]).get() == count).await;
}

#[test]
fn a_mirror_gets_the_request_as_the_endpoint_does_and_its_answer_is_thrown_away() {
    run(async {
        let ((main, main_seen), (mirror, mirror_seen)) = (recorder("main").await, recorder("mirror").await);
        let (proxy, client) = mirrored(&main, &[mirror.addr]).await;
        let (response, mut body) = send(&client, post("/up"), false).await;
        body.send_data("one,".into(), false).unwrap();
        main.has(1).await;
        body.send_data("two".into(), true).unwrap();
        let mut answer = response.await.unwrap().into_body();
        assert_eq!(collect(&mut answer).await.unwrap().0, b"main");
        let (response, _) = send(&client, get("/plain"), true).await;
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"main");
        counted(&proxy, "sent", 2).await;
        let env = Some("test".to_owned());
        let expected =
            [("/up".to_owned(), env.clone(), b"one,two".to_vec()), ("/plain".to_owned(), env, Vec::new())];
        assert_eq!(*main_seen.borrow(), expected);
        assert_eq!(*mirror_seen.borrow(), expected);
    });
}

#[test]
fn an_answer_before_the_end_of_the_request_leaves_the_mirror_its_whole_body() {
    run(async {
        let main =
            Endpoint::start(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                let mut from = request.into_body();
                while let Some(Ok(part)) = from.data().await {
                    let _ = from.flow_control().release_capacity(part.len());
                }
                to.send_data("early".into(), true).unwrap();
            })
            .await;
        let (mirror, seen) = recorder("").await;
        let (proxy, client) = mirrored(&main, &[mirror.addr]).await;
        let (response, mut body) = send(&client, post("/"), false).await;
        body.send_data("one,".into(), false).unwrap();
        let mut answer = response.await.unwrap();
        body.send_data("two".into(), true).unwrap();
        assert_eq!(collect(answer.body_mut()).await.unwrap().0, b"early");
        counted(&proxy, "sent", 1).await;
        assert_eq!(seen.borrow()[0].2, b"one,two");
    });
}

#[test]
fn what_cannot_be_kept_and_where_nobody_listens_changes_nothing_for_the_client() {
    run(async {
        let (main, _) = recorder("main").await;
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (proxy, client) = mirrored(&main, &[dead]).await;
        let (response, mut body) = send(&client, post("/trailers"), false).await;
        body.send_data("x".into(), false).unwrap();
        body.send_trailers(HeaderMap::new()).unwrap();
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"main");
        counted(&proxy, "too_large", 1).await;
        let (response, _) = send(&client, get("/"), true).await;
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"main");
        counted(&proxy, "failed", 1).await;
    });
}
