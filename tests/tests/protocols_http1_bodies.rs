//! Bodies and ends of HTTP/1 through the agent: streaming, back-pressure, resets, half-closes, broken responses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mesh_tests::http1::read_message;
use mesh_tests::server::{Server, reset};
use mesh_tests::{PATIENCE, SOON, need_shop, shared_shop};

shared_shop!("bodies");

#[test]
fn a_body_streams_and_is_never_collected() {
    let shop = need_shop!();
    let port = shop.port();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), move |mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        let _ = released.lock().unwrap().recv_timeout(PATIENCE);
        let _ = stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n");
    });
    let service = shop.expose("streaming", "http", port, &[&shop.carts[0]]).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"first") {
        seen.extend(client.read_bytes(1).expect("the first chunk comes while the second is held back"));
    }
    release.send(()).unwrap();
    while !seen.ends_with(b"0\r\n\r\n") {
        seen.extend(client.read_bytes(1).unwrap());
    }
    assert!(String::from_utf8_lossy(&seen).contains("second"));
}

#[test]
fn a_client_that_does_not_read_holds_the_server_back() {
    let shop = need_shop!();
    let port = shop.port();
    let (report, written) = mpsc::channel();
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), move |mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let block = vec![b'x'; 64 * 1024];
        let mut sent = 0_usize;
        while sent < 1_000_000_000 {
            match stream.write(&block) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        let _ = report.send(sent);
    });
    let service = shop.expose("slowreader", "http", port, &[&shop.carts[0]]).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").unwrap();
    let sent = written.recv_timeout(PATIENCE * 3).expect("the server is blocked");
    // Socket buffers of four sockets, each up to 6 MB by the kernel's default; the agent itself adds little.
    assert!(sent < 40_000_000, "the server could send {sent} bytes to a client that reads none");
}

#[test]
fn a_server_that_does_not_read_holds_the_client_back() {
    let shop = need_shop!();
    let port = shop.port();
    let (done, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), move |stream, _| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE * 3);
        drop(stream);
    });
    let service = shop.expose("slowserver", "http", port, &[&shop.carts[0]]).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.send("POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let block = vec![b'x'; 64 * 1024];
    let mut sent = 0_usize;
    let mut stream = client.stream();
    while let Ok(n) = stream.write(&block) {
        sent += n;
        assert!(sent < 40_000_000, "the client could send {sent} bytes to a server that reads none");
    }
    done.send(()).unwrap();
}

#[test]
fn large_bodies_arrive_whole_in_both_directions() {
    let shop = need_shop!();
    let service = shop.http("large", "http", 1).unwrap();
    let body: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut client = shop.client(&service).unwrap();
    let mut writer = client.stream().try_clone().unwrap();
    let copy = body.clone();
    let sender = std::thread::spawn(move || {
        let head = format!("POST /echo HTTP/1.1\r\nHost: l\r\nContent-Length: {}\r\n\r\n", copy.len());
        writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&copy))
    });
    let answer = client.read().unwrap().unwrap();
    sender.join().unwrap().unwrap();
    assert!(answer.body == body, "{} bytes came back, not the same", answer.body.len());
}

#[test]
fn a_client_that_goes_away_cancels_the_upstream_request() {
    let shop = need_shop!();
    let service = shop.http("cancelled", "http", 1).unwrap();
    let (arrived, arrival) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let port = shop.port();
    let _server = Server::new(shop.carts[1].listen(port).unwrap(), move |mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = arrived.send(());
        let _ = ended.send((Instant::now(), stream.read(&mut [0; 16]).unwrap_or(0)));
    });
    let hanging = shop.expose("hanging", "http", port, &[&shop.carts[1]]).unwrap();
    let mut client = shop.client(&hanging).unwrap();
    client.send("GET /wait HTTP/1.1\r\nHost: c\r\n\r\n").unwrap();
    arrival.recv_timeout(PATIENCE).expect("the request arrives");
    let gone = Instant::now();
    reset(client.stream().try_clone().unwrap());
    drop(client);
    let (seen, bytes) = end.recv_timeout(PATIENCE).expect("the server learns that the client is gone");
    assert_eq!(bytes, 0);
    assert!(seen.duration_since(gone) < SOON);
    let line =
        shop.log_shows("/wait", |line| line["path"] == "/wait" && line["reporter"] == "source").unwrap();
    assert_eq!(line["response_flags"], "DC", "{line}");
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
}

#[test]
fn a_server_that_resets_before_its_answer_is_a_503_with_flag_uc() {
    let shop = need_shop!();
    let service = shop.http("resetting", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    // A body, so that it can't be tried again.
    let answer = client.ask("POST /reset HTTP/1.1\r\nHost: r\r\nContent-Length: 1\r\n\r\nx").unwrap();
    assert_eq!(answer.status(), 503);
    let line = shop.log_shows("/reset", |l| l["path"] == "/reset" && l["reporter"] == "source").unwrap();
    assert_eq!(line["response_flags"], "UC", "{line}");
}

#[test]
fn a_response_cut_short_never_ends_cleanly() {
    let shop = need_shop!();
    let service = shop.http("cut", "http", 1).unwrap();
    for path in ["/cut", "/cutchunk"] {
        let mut client = shop.client(&service).unwrap();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: c\r\n\r\n")).unwrap();
        let outcome = client.read();
        assert!(outcome.is_err(), "{path}: {outcome:?}");
    }
}

#[test]
fn a_client_that_half_closes_after_its_request_is_answered() {
    let shop = need_shop!();
    let service = shop.http("halfclosed", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.send("GET /slow/100 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read().unwrap().unwrap().text(), "cart-1");
    assert!(client.closes_within(SOON));
}

#[test]
fn a_pooled_connection_that_the_server_closed_is_not_an_error() {
    let shop = need_shop!();
    let port = shop.port();
    // Answers once as if it kept the connection, then closes it.
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        if let Ok(Some(_)) = read_message(&mut reader, false) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let service = shop.expose("forgetful", "http", port, &[&shop.carts[0]]).unwrap();
    let mut client = shop.client(&service).unwrap();
    for i in 0..50 {
        assert_eq!(client.get("f", &format!("/{i}")).unwrap().status(), 200, "request {i}");
    }
}

#[test]
fn an_answer_before_the_end_of_the_request_body_reaches_the_client() {
    let shop = need_shop!();
    let port = shop.port();
    let _server = Server::new(shop.carts[0].listen(port).unwrap(), |mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ =
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    let service = shop.expose("early", "http", port, &[&shop.carts[0]]).unwrap();
    let mut client = shop.client(&service).unwrap();
    client.send("POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 1000\r\n\r\npart").unwrap();
    let answer = client.read().unwrap().unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (413, "no!"));
}
