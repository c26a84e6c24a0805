//! What a client or server can't do to the agent: hostile messages, early answers, drain and deadlines.

use super::*;

async fn refused(request: &str, status: &str) {
    let mut lab = lab().await;
    lab.client.write_all(request.as_bytes()).await.unwrap();
    let got = rest(&mut lab.client).await.unwrap();
    assert!(
        got.starts_with(&format!("HTTP/1.1 {status} ")) && got.contains("connection: close\r\n"),
        "{request:?}: {got:?}"
    );
    let reached = tokio::time::timeout(Duration::from_millis(5), lab.accept()).await;
    if let Ok(mut server) = reached {
        assert_eq!(rest(&mut server).await.unwrap_or_default(), "", "{request:?} went on");
    }
}

#[test]
fn hostile_requests_are_refused_and_never_reach_the_endpoint() {
    run_paused(async {
        let many = "a: b\r\n".repeat(101);
        let long = "a".repeat(70_000);
        for (request, status) in [
            ("GET / HTTP/1.1\nHost: a\n\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "400",
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "501"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", "400"),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505"),
            ("\x16\x03\x01\x02", "400"),
            (&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431"),
            (&format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n"), "431"),
            (&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), "414"),
        ] {
            refused(request, status).await;
        }
    });
}

#[test]
fn a_chunk_that_turns_bad_later_cuts_the_request_short() {
    run(async {
        let mut lab = lab().await;
        lab.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        expect(&mut server, "1\r\nx\r\n").await;
        lab.send("1\nx\r\n").await;
        assert!(rest(&mut lab.client).await.unwrap().starts_with("HTTP/1.1 400 "));
        assert_eq!(rest(&mut server).await.unwrap_or_default(), "");
    });
}

#[test]
fn an_early_response_does_not_stop_the_request() {
    run(async {
        let mut lab = lab().await;
        lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        expect(&mut server, "abc").await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
        server.write_all(format!("{answer}\r\nok").as_bytes()).await.unwrap();
        expect(&mut lab.client, &format!("{answer}Connection: close\r\n\r\nok")).await;
        lab.send("def").await;
        expect(&mut server, "def").await;
        assert_eq!(rest(&mut lab.client).await.unwrap(), "");
    });
}

#[test]
fn an_early_refusal_is_seen_though_the_upstream_stops_reading() {
    run(async {
        let mut lab = lab().await;
        lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\nabc").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        expect(&mut server, "abc").await;
        server
            .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        drop(server);
        let got = head(&mut lab.client).await;
        assert_eq!(got, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
}

#[test]
fn drain_ends_idle_connections_and_lets_busy_ones_finish() {
    run(async {
        let (mut idle, mut busy) = (lab().await, lab().await);
        busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = busy.accept().await;
        head(&mut server).await;
        idle.conn.pod.worker.drain.begin();
        busy.conn.pod.worker.drain.begin();
        assert_eq!(rest(&mut idle.client).await.unwrap(), "");
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let got = rest(&mut busy.client).await.unwrap();
        assert_eq!(got, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    });
}

/// Time stands still and jumps to the next timer while nothing else happens.
pub(super) fn run_paused(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn slow_heads_and_silent_clients_have_deadlines() {
    run_paused(async {
        let mut lab = lab().await;
        assert_eq!(rest(&mut lab.client).await.unwrap(), "");
    });
    run_paused(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.1\r\nHost:").await;
        assert!(rest(&mut lab.client).await.unwrap().starts_with("HTTP/1.1 408 "));
    });
}

#[test]
fn a_body_that_stalls_and_a_server_that_is_silent_have_deadlines() {
    run_paused(async {
        let mut lab = lab().await;
        lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        expect(&mut server, "abc").await;
        assert!(rest(&mut lab.client).await.unwrap().starts_with("HTTP/1.1 408 "));
        assert!(rest(&mut server).await.is_err());
    });
    run_paused(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        assert!(head(&mut lab.client).await.starts_with("HTTP/1.1 504 "));
    });
}

#[test]
fn a_connection_that_waits_costs_little() {
    run(async {
        let lab = lab().await;
        let size = std::mem::size_of_val(&serve(Conn::new(lab.client, BytesMut::new()), &lab.conn));
        // A third of what an open connection may cost altogether; buffers and the socket are the rest.
        assert!(size < 4352, "{size} bytes");
    });
}
