//! HTTP/2 with prior knowledge and gRPC through the agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use mesh_tests::http2::{H2Server, answer, collect, get, reset_of, whole, with_client};
use mesh_tests::shop::{Service, Shop};
use mesh_tests::{AT_ONCE, PATIENCE, need_shop, peers, shared_shop};
use tokio::sync::Notify;

shared_shop!("http2");

/// An HTTP/2 server on the first cart and a service over it.
fn serve<F, R>(
    shop: &Shop,
    name: &str,
    port_name: &str,
    goaway_after: Option<usize>,
    handle: F,
) -> (H2Server, Service)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + 'static,
{
    let port = shop.port();
    let server = H2Server::new(shop.carts[0].listen(port).unwrap(), goaway_after, handle);
    (server, shop.expose(name, port_name, port, &[&shop.carts[0]]).unwrap())
}

async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let Ok((body, trailers)) = collect(request.into_body()).await else { return };
    let body = if body.is_empty() { path.into_bytes() } else { body };
    // A window at a time is sent by h2 itself once the data is queued.
    answer(&mut respond, body, trailers);
}

fn client<T, R: Future<Output = Result<T>>>(
    shop: &Shop,
    service: &Service,
    work: impl FnOnce(h2::client::SendRequest<Bytes>) -> R,
) -> T {
    with_client(shop.web.connect(service.at()).unwrap(), work).unwrap()
}

#[test]
fn bodies_and_trailers_go_both_ways() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "h2echo", "http2", None, echo);
    let back = client(shop, &service, async |client| {
        let request = Request::post("http://h2echo/post").header("te", "trailers").body(())?;
        let (response, mut body) = client.ready().await?.send_request(request, false)?;
        body.send_data(Bytes::from_static(b"hello "), false)?;
        body.send_data(Bytes::from_static(b"world"), false)?;
        body.send_trailers(HeaderMap::from_iter([("x-check".parse()?, "42".parse()?)]))?;
        whole(response.await?).await
    });
    assert_eq!((back.head.status.as_u16(), back.body.as_slice()), (200, &b"hello world"[..]));
    assert_eq!(back.trailers.unwrap()["x-check"], "42");
}

#[test]
fn a_megabyte_goes_through_small_windows_whole() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "h2large", "http2", None, echo);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    let sent = bytes.clone();
    let back = client(shop, &service, async move |client| {
        let request = Request::post("http://h2large/large").body(())?;
        let (response, mut body) = client.ready().await?.send_request(request, false)?;
        body.send_data(sent.into(), true)?;
        whole(response.await?).await
    });
    assert!(back.body == bytes, "{} bytes came back", back.body.len());
}

#[test]
fn streams_are_answered_as_they_are_ready_on_few_upstream_connections() {
    let shop = need_shop!();
    let release = Arc::new(Notify::new());
    let released = release.clone();
    let (server, service) = serve(shop, "h2many", "http2", None, move |request, respond| {
        let released = released.clone();
        async move {
            if request.uri().path() == "/held" {
                released.notified().await;
            }
            echo(request, respond).await;
        }
    });
    client(shop, &service, async |client| {
        let ask = |path: &'static str| {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                let back = get(&client, "h2many", path).await?;
                ensure!(back.body == path.as_bytes());
                Ok(())
            })
        };
        let held = ask("/held");
        let others: Vec<_> = (0..99).map(|_| ask("/other")).collect();
        for other in others {
            // Held back by the first one, this would never end.
            other.await??;
        }
        ensure!(!held.is_finished(), "answered before it was released");
        release.notify_one();
        held.await?
    });
    assert!(server.accepted() <= 8, "{} upstream connections for one client connection", server.accepted());
}

#[test]
fn a_reset_by_the_client_reaches_the_server_with_its_code() {
    let shop = need_shop!();
    let (report, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (_server, service) = serve(shop, "h2clientreset", "http2", None, move |_request, mut respond| {
        let report = report.clone();
        async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            let _ = report.send(reset_of(&mut stream).await);
        }
    });
    let seen = client(shop, &service, async |client| {
        let request = Request::post("http://r/").body(())?;
        let (response, mut body) = client.ready().await?.send_request(request, false)?;
        response.await?;
        body.send_reset(Reason::CANCEL);
        // The connection is kept until then: its end would cancel the stream too.
        Ok(seen.recv().await.flatten())
    });
    assert_eq!(seen, Some(Reason::CANCEL));
}

#[test]
fn a_reset_by_the_server_reaches_the_client_with_its_code() {
    let shop = need_shop!();
    let codes =
        [Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::CANCEL, Reason::INADEQUATE_SECURITY];
    let (_server, service) = serve(shop, "h2serverreset", "http2", None, |request, mut respond| async move {
        let code: u32 = request.uri().path()[1..].parse().unwrap();
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        let _ = stream.send_data(Bytes::from_static(b"part"), false);
        // Data is on its way when the reset comes; what still waits would be dropped with it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.send_reset(Reason::from(code));
    });
    for code in codes {
        let error = client(shop, &service, async |client| {
            let outcome = get(&client, "r", &format!("/{}", u32::from(code))).await;
            outcome.err().context("a clean end instead of a reset")
        });
        let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        assert_eq!(reason, Some(code), "{error:#}");
    }
}

#[test]
fn a_server_that_says_goaway_costs_no_request() {
    let shop = need_shop!();
    let (server, service) = serve(shop, "h2goaway", "http2", Some(3), echo);
    client(shop, &service, async |client| {
        for i in 0..30 {
            let back = get(&client, "g", "/x").await.with_context(|| format!("request {i}"))?;
            ensure!(back.head.status == 200, "request {i}: {}", back.head.status);
        }
        Ok(())
    });
    assert!(server.accepted() >= 10, "{}", server.accepted());
}

#[test]
fn a_server_that_does_not_take_data_holds_the_client_back() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "h2hold", "http2", None, |request, _respond| async move {
        // Never releases capacity.
        let _body = request.into_body();
        std::future::pending::<()>().await;
    });
    let sent = client(shop, &service, async |client| {
        let request = Request::post("http://h/").body(())?;
        let (_response, mut body) = client.ready().await?.send_request(request, false)?;
        let mut sent = 0;
        loop {
            body.reserve_capacity(64 * 1024);
            let granted = std::future::poll_fn(|cx| body.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_secs(1), granted).await {
                Ok(Some(Ok(n))) => {
                    body.send_data(vec![0; n].into(), false)?;
                    sent += n;
                    ensure!(sent < 100_000_000, "no end of it");
                }
                _ => return Ok(sent),
            }
        }
    });
    assert!(sent < 20_000_000, "the client could send {sent} bytes to a server that takes none");
}

#[test]
fn a_client_that_does_not_take_data_holds_the_server_back() {
    let shop = need_shop!();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let (_server, service) = serve(shop, "h2slow", "http2", None, move |_request, mut respond| {
        let count = count.clone();
        async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            loop {
                stream.reserve_capacity(64 * 1024);
                match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                    Some(Ok(n)) => {
                        if stream.send_data(vec![0; n].into(), false).is_err() {
                            return;
                        }
                        if count.fetch_add(n, Ordering::Relaxed) > 100_000_000 {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        }
    });
    client(shop, &service, async |client| {
        let request = Request::get("http://s/").body(())?;
        let (response, _) = client.ready().await?.send_request(request, true)?;
        let _kept = response.await?;
        let mut before = usize::MAX;
        loop {
            // Two equal looks a moment apart: the server is held back.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = sent.load(Ordering::Relaxed);
            if now == before {
                return Ok(());
            }
            before = now;
        }
    });
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 20_000_000, "the server could send {sent} bytes to a client that takes none");
}

#[test]
fn headers_pass_unchanged_but_for_the_request_id() {
    let shop = need_shop!();
    let (report, seen) = mpsc::channel();
    let (_server, service) = serve(shop, "h2headers", "http2", None, move |request, mut respond| {
        let _ = report.send(request.into_parts().0);
        async move { answer(&mut respond, "ok", None) }
    });
    client(shop, &service, async |client| {
        let request = Request::get("http://some.name:81/p%20q?x=1").header("x-a", "1").header("x-a", "2");
        let request =
            request.header("cookie", "a=1").header("cookie", "b=2").header("user-agent", "me").body(())?;
        let (response, _) = client.ready().await?.send_request(request, true)?;
        whole(response.await?).await
    });
    let head = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(head.uri.to_string(), "http://some.name:81/p%20q?x=1");
    assert_eq!(head.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(head.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(head.headers["user-agent"], "me");
    assert!(head.headers.contains_key("x-request-id"));
    let mut names: Vec<&str> = head.headers.keys().map(|name| name.as_str()).collect();
    names.retain(|name| !["x-request-id", "traceparent", "tracestate"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["cookie", "user-agent", "x-a"]);
}

#[test]
fn http2_is_found_where_nothing_or_only_http_is_declared() {
    let shop = need_shop!();
    for (name, port_name) in [("h2found", ""), ("h2ashttp", "http")] {
        let (_server, service) = serve(shop, name, port_name, None, echo);
        let path = format!("/{name}");
        let back = client(shop, &service, async |client| get(&client, "f", &path).await);
        assert_eq!(back.body, path.as_bytes());
        let line =
            shop.log_shows(&path, |line| line["path"] == *path && line["reporter"] == "source").unwrap();
        assert_eq!(line["protocol"].as_str().map(|p| p.trim_end_matches(".0")), Some("HTTP/2"), "{line}");
    }
}

#[test]
fn no_endpoint_is_503_on_the_stream_at_once() {
    let shop = need_shop!();
    let service = shop.expose("h2nobody", "http2", 1, &[]).unwrap();
    let started = Instant::now();
    let back = client(shop, &service, async |client| get(&client, "n", "/").await);
    assert_eq!(back.head.status, 503);
    assert!(started.elapsed() < AT_ONCE);
}

#[test]
fn curl_and_h2load_speak_to_nginx() {
    let shop = need_shop!();
    let port = shop.port();
    let root = shop.topology.scratch().join("www");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("file"), vec![b'n'; 200_000]).unwrap();
    let http =
        format!("server {{ listen {port} http2; http2_max_requests 100000; root {}; }}", root.display());
    let http = http.replace("http2_max_requests 100000; ", "keepalive_requests 100000; ");
    let _nginx = peers::nginx(&shop.topology, &shop.carts[0], port, &http).unwrap();
    let service = shop.expose("h2nginx", "http2", port, &[&shop.carts[0]]).unwrap();
    let url = service.url("/file");
    let output = shop.web.curl(&[
        "--http2-prior-knowledge",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{size_download}",
        &url,
    ]);
    assert_eq!(output.unwrap(), "2 200000");
    let load = shop.web.command("h2load").args(["-n", "600", "-c", "4", "-m", "20", &url]);
    let output = load.run(PATIENCE * 3).unwrap().success().unwrap().stdout;
    assert!(output.contains("600 succeeded, 0 failed"), "{output}");
    let output =
        shop.web.command("nghttp").args(["-n", "-v", &url]).run(PATIENCE).unwrap().success().unwrap().stdout;
    assert!(output.contains(":status: 200"), "{output}");
}

/// The gRPC server on the first cart, and what its client found out, by the name of the check.
fn grpc(shop: &Shop, name: &str, port_name: &str) -> HashMap<String, String> {
    let port = shop.port();
    let _server =
        peers::python_server(&shop.topology, &shop.carts[0], "grpc_echo.py", &["server", &port.to_string()])
            .unwrap();
    let service = shop.expose(name, port_name, port, &[&shop.carts[0]]).unwrap();
    let client = peers::python_script(&shop.topology, &shop.web, "grpc_echo.py").unwrap();
    let output =
        client.args(["client", &service.at().to_string()]).run(PATIENCE * 3).unwrap().success().unwrap();
    let pairs = output.stdout.lines().filter_map(|line| line.split_once(": "));
    pairs.map(|(check, outcome)| (check.to_owned(), outcome.to_owned())).collect()
}

#[test]
fn grpc_works_as_it_does_directly() {
    let shop = need_shop!();
    for (name, port_name) in [("grpc", "grpc"), ("grpcfound", "")] {
        let found = grpc(shop, name, port_name);
        for (check, expected) in [
            ("unary", "hello"),
            ("metadata", "initial=yes trailing=done"),
            ("server stream", "0 1 2 3 4"),
            ("client stream", "a+b+c"),
            ("bidirectional", "A B C"),
            ("status", "FAILED_PRECONDITION caf\u{e9} %25"),
            ("trailers only", "UNIMPLEMENTED"),
            ("deadline", "DEADLINE_EXCEEDED"),
            ("cancelled", "seen by the server"),
            ("large", "1000000"),
            ("soak", "500 of 500"),
        ] {
            assert_eq!(found.get(check).map(String::as_str), Some(expected), "{name}, {check}: {found:#?}");
        }
    }
}

#[test]
fn grpc_is_counted_with_its_status_and_messages() {
    let shop = need_shop!();
    let _found = grpc(shop, "grpccounted", "grpc");
    shop.metrics_show(|metrics| {
        for (status, least) in [("0", 500.0), ("9", 1.0), ("12", 1.0)] {
            let labels = [
                ("reporter", "source"),
                ("destination_service_name", "grpccounted"),
                ("request_protocol", "grpc"),
                ("response_code", "200"),
                ("grpc_response_status", status),
            ];
            let count = metrics.sum("istio_requests_total", &labels);
            ensure!(count >= least, "status {status}: {count}");
        }
        let of = [("reporter", "source"), ("destination_service_name", "grpccounted")];
        let (sent, received) = (
            metrics.sum("istio_request_messages_total", &of),
            metrics.sum("istio_response_messages_total", &of),
        );
        ensure!(sent >= 506.0 && received >= 508.0, "{sent} messages sent, {received} received");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_agents_own_refusals_are_in_grpc_form_for_grpc() {
    let shop = need_shop!();
    let service = shop.expose("grpcnobody", "grpc", 1, &[]).unwrap();
    let back = client(shop, &service, async |client| {
        let request = Request::post("http://g/echo.Echo/Unary").header("content-type", "application/grpc");
        let (response, _) =
            client.ready().await?.send_request(request.header("te", "trailers").body(())?, true)?;
        whole(response.await?).await
    });
    let status = back.head.headers.get("grpc-status").or_else(|| back.trailers.as_ref()?.get("grpc-status"));
    assert_eq!(
        (back.head.status.as_u16(), status.map(|s| s.as_bytes())),
        (200, Some(&b"14"[..])),
        "{back:?}"
    );
    assert_eq!(back.head.headers["content-type"], "application/grpc");
}

#[test]
fn a_server_that_dies_inside_a_response_is_never_a_clean_end() {
    let shop = need_shop!();
    let port = shop.port();
    let listener = shop.carts[0].listen(port).unwrap();
    let server = mesh_tests::server::Server::new(listener, |stream, _| {
        // Preface, SETTINGS, a response head and half a body by hand; then the end.
        use mesh_tests::h2raw::{END_HEADERS, frame, kind};
        use std::io::{Read, Write};
        let mut stream = stream;
        let _ = stream.write_all(&frame(kind::SETTINGS, 0, 0, &[]));
        let _ = stream.read(&mut [0; 4096]);
        // The request may come after the settings, in a packet of its own.
        std::thread::sleep(Duration::from_millis(50));
        let _ = stream.read(&mut [0; 4096]);
        // :status 200 is entry 8 of the static table.
        let _ = stream.write_all(&frame(kind::HEADERS, END_HEADERS, 1, &[0x88]));
        let _ = stream.write_all(&frame(kind::DATA, 0, 1, b"half a"));
        // So that what was sent is read before the end is seen.
        std::thread::sleep(Duration::from_millis(50));
    });
    let service = shop.expose("h2dies", "http2", port, &[&shop.carts[0]]).unwrap();
    let outcome = client(shop, &service, async |client| Ok(get(&client, "d", "/").await));
    assert!(outcome.is_err(), "{outcome:?}");
    assert!(server.accepted() >= 1);
}
