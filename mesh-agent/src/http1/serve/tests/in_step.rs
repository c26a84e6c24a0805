//! Connections that are kept only where both sides agree about what comes next on them.

use super::*;
use crate::proxy::Backends;

/// As `lab`, with upstream connections that are kept for others.
async fn pooled() -> Lab {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = endpoint.local_addr().unwrap();
    let conn = testing::connection(addr);
    conn.set_backends(Backends::Service(testing::service_port("a", &[addr])));
    lab_on(endpoint, conn).await
}

#[test]
fn an_upstream_that_answered_before_the_requests_end_is_not_kept() {
    run(async {
        let mut lab = pooled().await;
        lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        expect(&mut server, "abc").await;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert!(head(&mut lab.client).await.contains("Connection: close\r\n"));
        lab.send("def").await;
        // What is kept stays open.
        assert_eq!(rest(&mut server).await.unwrap(), "def");
    });
}

#[test]
fn an_upstream_that_answered_after_the_requests_end_is_kept() {
    run(async {
        let mut lab = pooled().await;
        let mut server = None;
        for _ in 0..2 {
            lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
            if server.is_none() {
                server = Some(lab.accept().await);
            }
            let server = server.as_mut().unwrap();
            head(server).await;
            expect(server, "abc").await;
            server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            head(&mut lab.client).await;
        }
    });
}

#[test]
fn what_follows_a_refused_connect_is_never_a_request() {
    run(async {
        let mut lab = lab().await;
        lab.send("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\nGET /inside HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let got = rest(&mut lab.client).await.unwrap();
        assert_eq!(got, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(rest(&mut server).await.unwrap_or_default(), "");
    });
}

#[test]
fn a_response_cut_short_is_no_clean_end_for_a_client_that_knows_no_chunks() {
    run(async {
        let mut lab = lab().await;
        lab.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        let mut server = lab.accept().await;
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf").await.unwrap();
        expect(&mut lab.client, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf").await;
        drop(server);
        let end = rest(&mut lab.client).await;
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_empty_line_after_a_body_begins_no_request() {
    limits::run_paused(async {
        let mut lab = lab().await;
        let longer_than_a_head_may_take = lab.conn.limits().head_timeout * 2;
        lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n").await;
        let mut server = lab.accept().await;
        for _ in 0..2 {
            head(&mut server).await;
            expect(&mut server, "abc").await;
            server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            assert!(head(&mut lab.client).await.starts_with("HTTP/1.1 204 "));
            // Paused time: a head would be overdue by then.
            tokio::time::sleep(longer_than_a_head_may_take).await;
            lab.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        }
    });
}
