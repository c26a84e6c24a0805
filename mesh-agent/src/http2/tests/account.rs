//! What metrics say of a call is what happened.

use http::{HeaderValue, Response};

use super::*;

const MESSAGE: &[u8] = &[0, 0, 0, 0, 2, b'h', b'i'];

async fn call(path: &'static str, proxy: &Proxy) -> Option<String> {
    let client = proxy.client().await;
    let (response, mut up) = send(&client, grpc(path), false).await;
    up.send_data(Bytes::from([MESSAGE, &MESSAGE[..3]].concat()), false).unwrap();
    up.send_data(Bytes::from_static(&MESSAGE[3..]), true).unwrap();
    let response = response.await.unwrap();
    let only = response.headers().get("grpc-status").cloned();
    let mut body = response.into_body();
    let trailers = collect(&mut body).await.unwrap().1;
    let status = trailers.and_then(|trailers| trailers.get("grpc-status").cloned()).or(only);
    status.map(|status| status.to_str().unwrap().to_owned())
}

async fn lab() -> Proxy {
    let endpoint = Endpoint::start(|mut request, mut respond: SendResponse<Bytes>| async move {
        let _ = collect(request.body_mut()).await;
        let head = Response::builder().header("content-type", "application/grpc");
        if request.uri().path() == "/only" {
            let head =
                head.header("grpc-status", "5").header("grpc-message", "gibt%20es%20nicht").body(()).unwrap();
            respond.send_response(head, true).unwrap();
            return;
        }
        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
        for _ in 0..3 {
            stream.send_data(Bytes::from_static(MESSAGE), false).unwrap();
            tokio::task::yield_now().await;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    Proxy::to(endpoint.addr).await
}

fn line(proxy: &Proxy, family: &str) -> String {
    let text = proxy.conn().pod.worker.telemetry.metrics.text();
    text.lines().find(|line| line.starts_with(family)).unwrap_or_default().to_owned()
}

/// Never answers.
async fn keep(request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    std::future::pending::<()>().await;
    drop((request, respond));
}

#[test]
fn grpc_messages_and_status_are_counted() {
    run(async {
        let proxy = lab().await;
        assert_eq!(call("/pkg.Service/Call", &proxy).await.as_deref(), Some("0"));
        eventually("reported", || line(&proxy, "istio_requests_total").ends_with(" 1")).await;
        let requests = line(&proxy, "istio_requests_total");
        assert!(requests.contains(r#"request_protocol="grpc""#), "{requests}");
        assert!(requests.contains(r#"grpc_response_status="0""#), "{requests}");
        assert!(
            line(&proxy, "istio_request_messages_total").ends_with(" 2"),
            "{}",
            line(&proxy, "istio_request_messages_total")
        );
        assert!(
            line(&proxy, "istio_response_messages_total").ends_with(" 3"),
            "{}",
            line(&proxy, "istio_response_messages_total")
        );
    });
}

#[test]
fn a_trailers_only_answer_keeps_its_form_and_status() {
    run(async {
        let proxy = lab().await;
        assert_eq!(call("/only", &proxy).await.as_deref(), Some("5"));
        eventually("reported", || {
            line(&proxy, "istio_requests_total").contains(r#"grpc_response_status="5""#)
        })
        .await;
    });
}

#[test]
fn a_cancelled_call_is_reported_as_the_clients_doing() {
    run(async {
        let endpoint = Endpoint::start(keep).await;
        let proxy = Proxy::to(endpoint.addr).await;
        let client = proxy.client().await;
        let (_response, mut up) = send(&client, grpc("/pkg.Service/Call"), false).await;
        endpoint.has(1).await;
        up.send_reset(h2::Reason::CANCEL);
        eventually("reported", || line(&proxy, "istio_requests_total").contains(r#"response_flags="DR""#))
            .await;
    });
}

#[test]
fn calls_under_way_when_the_client_vanishes_are_reported() {
    run(async {
        let endpoint = Endpoint::start(keep).await;
        let proxy = Proxy::to(endpoint.addr).await;
        let stream = TcpStream::connect(proxy.addr).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = spawn_local(connection);
        let (_response, _up) = send(&client, get("/"), true).await;
        endpoint.has(1).await;
        driver.abort();
        eventually("reported", || line(&proxy, "istio_requests_total").contains(r#"response_flags="DC""#))
            .await;
    });
}
