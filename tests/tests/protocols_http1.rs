//! HTTP/1.0 and 1.1 through the agent: what client and server saw of each other's messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mesh_tests::http1::{Client, read_message};
use mesh_tests::lab::eventually;
use mesh_tests::server::Server;
use mesh_tests::{PATIENCE, SOON, need_shop, peers, shared_shop};

shared_shop!("http1");

#[test]
fn keep_alive_requests_share_one_upstream_connection() {
    let shop = need_shop!();
    let service = shop.http("keepalive", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    for i in 0..20 {
        let answer = client.get("keepalive", &format!("/n/{i}")).unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "cart-1"));
    }
    assert_eq!(service.seen().count(), 20);
    assert_eq!(service.backends[0].server.accepted(), 1);
}

#[test]
fn an_upstream_connection_is_kept_for_the_next_client_connection() {
    let shop = need_shop!();
    let service = shop.http("pooled", "http", 1).unwrap();
    // Each worker has a pool of its own, so a few connections may be needed, never one a client.
    for _ in 0..20 {
        assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    }
    assert!(
        service.backends[0].server.accepted() <= 4,
        "{} connections",
        service.backends[0].server.accepted()
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let shop = need_shop!();
    let service = shop.http("pipelined", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let requests: String = ["/slow/50", "/bytes/3", "/status/404", "/chunked", "/"]
        .map(|path| format!("GET {path} HTTP/1.1\r\nHost: p\r\n\r\n"))
        .concat();
    client.send(requests).unwrap();
    let answers: Vec<(u16, String)> =
        (0..5).map(|_| client.read().unwrap().unwrap()).map(|a| (a.status(), a.text())).collect();
    let expected = [(200, "cart-1"), (200, "xxx"), (404, "status\n"), (200, "onetwothree"), (200, "cart-1")];
    assert_eq!(answers, expected.map(|(status, text)| (status, text.to_owned())));
}

#[test]
fn chunked_bodies_and_trailers_go_both_ways() {
    let shop = need_shop!();
    let service = shop.http("chunked", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let request = "POST /echo HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n\
                   5\r\nhello\r\n1;ext=1\r\n \r\n5\r\nworld\r\n0\r\nX-Check: 42\r\n\r\n";
    let answer = client.ask(request).unwrap();
    assert_eq!(answer.text(), "hello world");
    assert_eq!(answer.trailers, ["X-Check: 42"]);
    assert_eq!(service.seen().all()[0].trailers, ["X-Check: 42"]);
    let answer = client.get("c", "/chunked").unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.trailers.as_slice()),
        ("onetwothree", &["X-Sum: 11".to_owned()][..])
    );
}

#[test]
fn http_1_0_stays_http_1_0() {
    let shop = need_shop!();
    let service = shop.http("oldhttp", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let answer = client.ask("GET /old HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(answer.status(), 200);
    assert!(client.closes_within(SOON), "an HTTP/1.0 connection is closed after its answer");
    assert_eq!(service.request("/old").unwrap().start_line(), "GET /old HTTP/1.0");
}

#[test]
fn a_close_delimited_body_ends_with_the_connection() {
    let shop = need_shop!();
    let service = shop.http("closedelimited", "http", 1).unwrap();
    let answer = shop.get(&service, "/close").unwrap();
    assert_eq!((answer.text().as_str(), answer.header("x-server")), ("until the end", Some("close")));
}

#[test]
fn head_and_bodiless_statuses_have_no_body_and_keep_the_connection() {
    let shop = need_shop!();
    let service = shop.http("bodiless", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.send("HEAD /bytes/1000 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let answer = client.read_bodiless().unwrap().unwrap();
    assert_eq!((answer.status(), answer.header("content-length")), (200, Some("1000")));
    assert_eq!(client.get("h", "/status/304").unwrap().status(), 304);
    assert_eq!(client.get("h", "/").unwrap().text(), "cart-1");
}

#[test]
fn expect_continue_is_answered_by_the_server_not_by_the_agent() {
    let shop = need_shop!();
    let service = shop.http("continued", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    client
        .send("POST /echo HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .unwrap();
    assert_eq!(client.read().unwrap().unwrap().status(), 100);
    client.send("body").unwrap();
    assert_eq!(client.read().unwrap().unwrap().text(), "body");

    // A server that refuses at once: its answer comes first and no 100 was made up.
    let port = shop.port();
    let _refusing = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream
            .write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let refusing = shop.expose("continuedno", "http", port, &[&shop.carts[0]]).unwrap();
    let mut client = shop.client(&refusing).unwrap();
    client.send("POST / HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").unwrap();
    assert_eq!(client.read().unwrap().unwrap().status(), 417);
}

#[test]
fn early_hints_reach_the_client_before_the_answer() {
    let shop = need_shop!();
    let service = shop.http("earlyhints", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let hints = client.get("e", "/early").unwrap();
    assert_eq!((hints.status(), hints.header("link")), (103, Some("</style.css>; rel=preload")));
    assert_eq!(client.read().unwrap().unwrap().status(), 200);
}

#[test]
fn upgrade_turns_the_connection_into_bytes_with_half_close() {
    let shop = need_shop!();
    let service = shop.http("upgraded", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let request = "GET /upgrade HTTP/1.1\r\nHost: u\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = client.ask(request).unwrap();
    assert_eq!((answer.status(), answer.header("upgrade")), (101, Some("websocket")));
    let received = service.request("/upgrade").unwrap();
    assert_eq!(received.header("upgrade"), Some("websocket"));
    client.send("\x00raw bytes\r\n\r\n").unwrap();
    assert_eq!(client.read_bytes(13).unwrap(), b"\x00raw bytes\r\n\r"[..].to_vec());
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_all().unwrap(), b"\n");
}

#[test]
fn a_websocket_of_a_real_library_works_both_ways() {
    let shop = need_shop!();
    let port = shop.port();
    let host = &shop.carts[0];
    let _server =
        peers::python_server(&shop.topology, host, "websocket.py", &["server", &port.to_string()]).unwrap();
    let service = shop.expose("websocket", "http", port, &[host]).unwrap();
    let url = format!("ws://{}/chat", service.at());
    let client =
        peers::python_script(&shop.topology, &shop.web, "websocket.py").unwrap().args(["client", &url]);
    let output = client.run(PATIENCE * 2).unwrap().success().unwrap();
    assert_eq!(output.stdout.trim(), "echoed 4 messages, closed 1000");
}

#[test]
fn connect_opens_a_tunnel_through_the_server() {
    let shop = need_shop!();
    let service = shop.http("connect", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let tunnel = "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n";
    client.send(tunnel).unwrap();
    assert_eq!(client.read_bodiless().unwrap().unwrap().status(), 200);
    client.send("tunnelled").unwrap();
    assert_eq!(client.read_bytes(9).unwrap(), b"tunnelled");
    assert_eq!(service.request("example.org:443").unwrap().start_line(), "CONNECT example.org:443 HTTP/1.1");
}

#[test]
fn absolute_form_is_passed_on() {
    let shop = need_shop!();
    let service = shop.http("absolute", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let answer =
        client.ask("GET http://shop.example/head?q=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
    assert_eq!(answer.status(), 200);
    assert!(service.request("http://shop.example/head?q=1").is_some());
}

#[test]
fn nothing_of_a_request_is_changed_but_hop_by_hop_headers_and_the_request_id() {
    let shop = need_shop!();
    let service = shop.http("untouched", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let request = "GET /head?a=%20b&c HTTP/1.1\r\nHOST: untouched:80\r\nX-oDd-CaSe:  spaced value \r\nAccept: a\r\n\
                   accept: b\r\nEmpty:\r\nConnection: keep-alive, X-Hop\r\nX-Hop: gone\r\nKeep-Alive: timeout=5\r\n\
                   Proxy-Connection: keep-alive\r\nTE: gzip\r\nX-Utf8: \u{e4}\r\nX-Forwarded-For: 1.2.3.4\r\n\
                   Via: 1.1 other\r\nServer: odd\r\nUser-Agent: raw/1\r\nCookie: a=1; b=2\r\n\r\n";
    let received = client.ask(request).unwrap().text();
    let kept: Vec<&str> = received
        .lines()
        .filter(|l| !l.is_empty() && !l.to_ascii_lowercase().starts_with("x-request-id:"))
        .collect();
    let names: Vec<&str> = kept.iter().skip(1).filter_map(|l| l.split(':').next()).collect();
    assert_eq!(kept[0], "GET /head?a=%20b&c HTTP/1.1");
    let expected = [
        "HOST",
        "X-oDd-CaSe",
        "Accept",
        "accept",
        "Empty",
        "X-Utf8",
        "X-Forwarded-For",
        "Via",
        "Server",
        "User-Agent",
        "Cookie",
    ];
    let without_trace: Vec<&str> = names
        .into_iter()
        .filter(|n| !["traceparent", "tracestate"].contains(&n.to_ascii_lowercase().as_str()))
        .collect();
    assert_eq!(without_trace, expected, "{received}");
    assert!(received.contains("HOST: untouched:80\r\n"), "{received}");
    assert!(received.contains("spaced value"), "{received}");
    assert!(received.contains("X-Utf8: \u{e4}\r\n"), "{received}");
    assert!(received.to_ascii_lowercase().contains("\r\nx-request-id: "), "{received}");
}

#[test]
fn a_request_id_that_is_there_is_kept() {
    let shop = need_shop!();
    let service = shop.http("requestid", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let received =
        client.ask("GET /head HTTP/1.1\r\nHost: r\r\nX-Request-Id: mine-1\r\n\r\n").unwrap().text();
    assert_eq!(received.to_ascii_lowercase().matches("x-request-id").count(), 1, "{received}");
    assert!(received.contains("X-Request-Id: mine-1\r\n"), "{received}");
    let line = shop.log_shows("request id", |line| line["request_id"] == "mine-1").unwrap();
    assert_eq!((line["method"].as_str(), line["path"].as_str()), (Some("GET"), Some("/head")));
}

#[test]
fn headers_of_a_response_keep_spelling_and_order() {
    let shop = need_shop!();
    let port = shop.port();
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Ok(Some(_)) = read_message(&mut reader, false) {
            let answer = b"HTTP/1.1 299 Odd Reason Phrase\r\nX-ZuLu: 1\r\nset-cookie: a\r\nSet-Cookie: b\r\n\
                           Connection: X-Hop\r\nX-Hop: gone\r\nKeep-Alive: timeout=9\r\nDate: then\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    let service = shop.expose("spelling", "http", port, &[&shop.carts[0]]).unwrap();
    let answer = shop.get(&service, "/").unwrap();
    let names: Vec<&str> =
        answer.head.lines().skip(1).filter_map(|l| l.split_once(':')).map(|(n, _)| n).collect();
    assert_eq!(answer.start_line(), "HTTP/1.1 299 Odd Reason Phrase");
    assert_eq!(names, ["X-ZuLu", "set-cookie", "Set-Cookie", "Date", "Content-Length"], "{}", answer.head);
    assert_eq!(answer.text(), "ok");
}

#[test]
fn http_is_found_where_nothing_is_declared() {
    let shop = need_shop!();
    let service = shop.http("undeclared", "", 1).unwrap();
    // Detection that waited would cost every one of them its whole second.
    eventually(SOON, || {
        let before = Instant::now();
        let answer = shop.get(&service, "/found")?;
        assert_eq!(answer.status(), 200);
        ensure!(before.elapsed() < Duration::from_millis(500), "detection waited: {:?}", before.elapsed());
        Ok(())
    })
    .unwrap();
    let line = shop.log_shows("/found", |l| l["path"] == "/found" && l["reporter"] == "source").unwrap();
    assert_eq!(line["protocol"], "HTTP/1.1", "{line}");
    // The odd one: a first line that comes in pieces.
    let mut client = shop.client(&service).unwrap();
    for piece in ["G", "ET /pie", "ces HTTP/1.1\r\nHo", "st: p\r\n\r\n"] {
        client.send(piece).unwrap();
    }
    assert_eq!(client.read().unwrap().unwrap().status(), 200);
}

#[test]
fn curl_uploads_and_downloads() {
    let shop = need_shop!();
    let service = shop.http("curled", "http", 1).unwrap();
    let file = shop.topology.scratch().join("upload");
    std::fs::write(&file, vec![b'u'; 300_000]).unwrap();
    let upload = format!("@{}", file.display());
    let echoed = shop.web.curl(&["--data-binary", &upload, &service.url("/echo")]).unwrap();
    assert_eq!(echoed.len(), 300_000);
    let echoed =
        shop.web.curl(&["-H", "Transfer-Encoding: chunked", "--data-binary", &upload, &service.url("/echo")]);
    assert_eq!(echoed.unwrap().len(), 300_000);
    let v6 = format!("http://[{}]/", service.v6);
    assert_eq!(shop.web.curl(&[&v6]).unwrap(), "cart-1");
}

#[test]
fn nginx_serves_files_and_ranges_through_the_agent() {
    let shop = need_shop!();
    let port = shop.port();
    let root = shop.topology.scratch().join("www");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("file"), vec![b'n'; 1_000_000]).unwrap();
    let http = format!("server {{ listen {port}; root {}; }}", root.display());
    let _nginx = peers::nginx(&shop.topology, &shop.carts[0], port, &http).unwrap();
    let service = shop.expose("nginx", "http", port, &[&shop.carts[0]]).unwrap();
    assert_eq!(shop.web.curl(&[&service.url("/file")]).unwrap().len(), 1_000_000);
    assert_eq!(shop.web.curl(&["-r", "10-19", &service.url("/file")]).unwrap(), "nnnnnnnnnn");
    let code = ["-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(shop.web.curl(&[&code[..], &[&service.url("/none")]].concat()).unwrap(), "404");
    let load = shop.web.command("h2load").args(["--h1", "-n", "500", "-c", "8", &service.url("/file")]);
    let output = load.run(PATIENCE * 3).unwrap().success().unwrap().stdout;
    assert!(output.contains("500 succeeded, 0 failed"), "{output}");
}

#[test]
fn the_application_sees_the_clients_address() {
    let shop = need_shop!();
    let service = shop.http("clientseen", "http", 1).unwrap();
    let peer = shop.get(&service, "/peer").unwrap().text();
    assert!(peer.starts_with(&format!("{}:", shop.web.v4())), "{peer}");
    let mut other = Client::new(shop.batch.connect(service.at()).unwrap());
    let peer = other.get("c", "/peer").unwrap().text();
    assert!(
        peer.starts_with(&format!("{}:", shop.batch.v4())),
        "an upstream connection went to another pod: {peer}"
    );
}
