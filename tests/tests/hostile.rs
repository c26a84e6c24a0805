//! Hostile and broken input: refused by the agent, counted by name, never seen by an application, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::ensure;
use mesh_tests::h2raw::{END_HEADERS, END_STREAM, PREFACE, RawClient, block, frame, get, kind};
use mesh_tests::http1::Client;
use mesh_tests::http2::{H2Server, answer};
use mesh_tests::lab::eventually;
use mesh_tests::shop::{Service, Shop};
use mesh_tests::{AT_ONCE, PATIENCE, SOON, need_shop, shared_shop};

shared_shop!("hostile");

/// Sends `request` on a connection of its own: refused with `status` (0: closed without an answer), counted as
/// `reason`, never seen by the server, and the connection is closed.
fn refused(shop: &Shop, name: &str, request: &[u8], status: u16, reason: &str) {
    let service = shop.http(name, "http", 1).unwrap();
    let count =
        || shop.agent.metrics().unwrap().sum("mesh_agent_protocol_errors_total", &[("reason", reason)]);
    let before = count();
    let mut client = shop.client(&service).unwrap();
    client.send(request).unwrap();
    let answered = client.read().ok().flatten().map_or(0, |answer| answer.status());
    assert_eq!(answered, status, "{name}");
    assert!(client.closes_within(SOON), "{name}: left open");
    assert_eq!(service.seen().count(), 0, "{name} reached the application: {:?}", service.seen().all());
    eventually(SOON, || {
        let now = count();
        ensure!(now > before, "{name}: {reason} isn't counted");
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "{name}: the next client");
}

macro_rules! refuses {
    ($($(#[$doc:meta])* $name:ident: $request:expr => $status:literal, $reason:literal;)+) => { $(
        $(#[$doc])*
        #[test]
        fn $name() {
            let shop = need_shop!();
            let request: Vec<u8> = $request.to_vec();
            refused(shop, &stringify!($name).replace('_', "-"), &request, $status, $reason);
        }
    )+ };
}

refuses! {
    content_length_with_transfer_encoding_is_refused:
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
        => 400, "length_with_chunked";
    transfer_encoding_with_content_length_is_refused_in_either_order:
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
        => 400, "length_with_chunked";
    two_lengths_that_differ_are_refused:
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab" => 400, "conflicting_length";
    a_list_of_lengths_that_differ_is_refused:
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 2\r\n\r\nab" => 400, "conflicting_length";
    a_negative_length_is_refused: b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n" => 400, "bad_length";
    a_signed_length_is_refused: b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na" => 400, "bad_length";
    an_overflowing_length_is_refused:
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n" => 400, "bad_length";
    an_unknown_transfer_encoding_is_501:
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n" => 501, "bad_transfer_encoding";
    chunked_that_is_not_last_is_refused:
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n" => 501, "bad_transfer_encoding";
    chunked_twice_is_refused:
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        => 501, "bad_transfer_encoding";
    a_space_before_the_colon_is_refused:
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" => 400, "space_before_colon";
    an_obsolete_fold_is_refused: b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n" => 400, "obs_fold";
    a_bare_lf_in_a_head_is_refused: b"GET / HTTP/1.1\nHost: h\r\n\r\n" => 400, "bare_lf";
    a_bare_lf_after_a_header_is_refused: b"GET / HTTP/1.1\r\nHost: h\nX: a\r\n\r\n" => 400, "bare_lf";
    a_bare_cr_in_a_value_is_refused: b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n" => 400, "bare_cr";
    a_nul_in_a_value_is_refused: b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n" => 400, "nul";
    a_forbidden_byte_in_a_name_is_refused: b"GET / HTTP/1.1\r\nHost: h\r\nX(y): a\r\n\r\n" => 400, "bad_header_name";
    a_request_without_host_is_refused: b"GET / HTTP/1.1\r\nX: a\r\n\r\n" => 400, "missing_host";
    two_hosts_are_refused: b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" => 400, "conflicting_host";
    a_target_and_host_in_conflict_are_refused:
        b"GET http://one/ HTTP/1.1\r\nHost: two\r\n\r\n" => 400, "conflicting_host";
    a_host_that_is_none_is_refused: b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n" => 400, "bad_target";
    an_http_version_that_is_none_is_505: b"GET / HTTP/1.7\r\nHost: h\r\n\r\n" => 505, "bad_version";
    a_request_line_with_two_words_is_refused: b"GET /\r\nHost: h\r\n\r\n" => 400, "bad_request_line";
    more_than_a_hundred_headers_are_431:
        [b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec(), b"X: a\r\n".repeat(150), b"\r\n".to_vec()].concat() => 431, "head_too_large";
    an_oversized_header_is_431:
        [&b"GET / HTTP/1.1\r\nHost: h\r\nX: "[..], &[b'a'; 80_000], b"\r\n\r\n"].concat() => 431, "head_too_large";
    an_oversized_target_is_414:
        [&b"GET /"[..], &[b'a'; 20_000], b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat() => 414, "uri_too_long";
}

/// Broken chunk framing is met only when the head has gone to the server: the client's request fails, the server sees
/// an unclean end and never a whole request.
fn bad_chunks(shop: &Shop, name: &str, body: &[u8], reason: &str) {
    let service = shop.http(name, "http", 1).unwrap();
    let count =
        || shop.agent.metrics().unwrap().sum("mesh_agent_protocol_errors_total", &[("reason", reason)]);
    let before = count();
    let mut client = shop.client(&service).unwrap();
    client
        .send([b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat())
        .unwrap();
    let answered = client.read().ok().flatten().map_or(0, |answer| answer.status());
    assert!([0, 400].contains(&answered), "{name}: {answered}");
    assert!(client.closes_within(SOON), "{name}: left open");
    assert_eq!(service.seen().count(), 0, "{name} reached the application: {:?}", service.seen().all());
    eventually(SOON, || {
        ensure!(count() > before, "{name}: {reason} isn't counted");
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200, "{name}: the next client");
}

#[test]
fn broken_chunk_framing_is_refused() {
    let shop = need_shop!();
    for (name, body) in [
        ("chunk-size", &b"g\r\na\r\n0\r\n\r\n"[..]),
        ("chunk-sign", b"-1\r\na\r\n0\r\n\r\n"),
        ("chunk-prefix", b"0x1\r\na\r\n0\r\n\r\n"),
        ("chunk-lf", b"1\na\n0\n\n"),
        ("chunk-huge", b"fffffffffffffffff\r\na\r\n0\r\n\r\n"),
        ("chunk-end", b"1\r\nab\r\n0\r\n\r\n"),
        ("chunk-space", b"1 1\r\na\r\n0\r\n\r\n"),
    ] {
        bad_chunks(shop, name, body, "bad_chunk");
    }
}

#[test]
fn a_second_request_behind_an_ambiguous_one_is_never_forwarded() {
    let shop = need_shop!();
    let service = shop.http("smuggle", "http", 1).unwrap();
    let mut client = shop.client(&service).unwrap();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let request = format!(
        "GET /first HTTP/1.1\r\nHost: h\r\n\r\nPOST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        smuggled.len() + 5
    );
    client.send(request).unwrap();
    assert_eq!(client.read().unwrap().unwrap().status(), 200, "the sound one before it");
    assert_eq!(client.read().unwrap().unwrap().status(), 400);
    assert!(client.closes_within(SOON));
    let targets: Vec<String> = service.seen().all().iter().map(|m| m.word().to_owned()).collect();
    assert_eq!(targets, ["/first"]);
}

#[test]
fn a_head_that_never_ends_is_given_up_after_its_deadline() {
    let shop = need_shop!();
    let service = shop.http("slowloris", "http", 1).unwrap();
    let started = Instant::now();
    let mut client = shop.client(&service).unwrap();
    client.stream().set_read_timeout(Some(PATIENCE * 3)).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n").unwrap();
    let mut dripping = client.stream().try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        use std::io::Write;
        while dripping.write_all(b"X").is_ok() && started.elapsed() < PATIENCE * 3 {
            // One byte a second keeps every per-read deadline alive; only one for the whole head ends this.
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let status = client.read().ok().flatten().map_or(0, |answer| answer.status());
    let took = started.elapsed();
    assert!([0, 408].contains(&status), "{status}");
    assert!(took < PATIENCE, "a deadline that every byte renews: {took:?}");
    assert!(client.closes_within(SOON));
    drop(client);
    drip.join().unwrap();
    assert_eq!(service.seen().count(), 0);
}

#[test]
fn a_client_that_says_nothing_to_a_declared_http_port_harms_nobody() {
    let shop = need_shop!();
    let service = shop.http("silent", "http", 1).unwrap();
    let silent: Vec<Client> = (0..50).map(|_| shop.client(&service).unwrap()).collect();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    assert_eq!(silent.len(), 50);
}

#[test]
fn a_broken_response_is_502_and_never_reaches_the_client_as_it_was() {
    let shop = need_shop!();
    for (name, response) in [
        (
            "response-both",
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..],
        ),
        ("response-lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
        ("response-nul", b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("response-garbage", b"220 smtp.example ESMTP\r\n\r\n"),
    ] {
        let port = shop.port();
        let response = response.to_vec();
        let _server =
            mesh_tests::server::Server::new(shop.carts[0].listen(port).unwrap(), move |mut stream, _| {
                use std::io::{Read, Write};
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&response);
                let _ = stream.read(&mut [0; 4096]);
            });
        let service = shop.expose(name, "http", port, &[&shop.carts[0]]).unwrap();
        assert_eq!(shop.get(&service, "/").unwrap().status(), 502, "{name}");
    }
}

/// An HTTP/2 echo server and a service over it.
fn h2_service(shop: &Shop, name: &str) -> (H2Server, Service) {
    let port = shop.port();
    let server =
        H2Server::new(shop.carts[1].listen(port).unwrap(), None, |_request, mut respond| async move {
            // Time for an attack while streams are open.
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer(&mut respond, "ok", None);
        });
    (server, shop.expose(name, "http2", port, &[&shop.carts[1]]).unwrap())
}

/// The attack ends with the connection: GOAWAY with one of `codes` (or a bare close where that is empty), counted as
/// `reason`, and the next client is served.
fn h2_attack(shop: &Shop, name: &str, codes: &[u32], reason: &str, attack: impl FnOnce(&mut RawClient)) {
    let (_server, service) = h2_service(shop, name);
    let count =
        || shop.agent.metrics().unwrap().sum("mesh_agent_protocol_errors_total", &[("reason", reason)]);
    let before = count();
    let mut raw = RawClient::start(shop.web.connect(service.at()).unwrap()).unwrap();
    attack(&mut raw);
    // The answer may be lost to a RST when the other side closes on unread bytes; then the count tells.
    if let Some(end) = raw.read_until(|f| f.kind == kind::GOAWAY) {
        let code = end.code().unwrap();
        assert!(codes.contains(&code), "{name}: GOAWAY with {code}, not {codes:?}");
    }
    assert!(raw.read_until(|_| false).is_none());
    eventually(SOON, || {
        ensure!(count() > before, "{name}: {reason} isn't counted");
        Ok(())
    })
    .unwrap();
    let output = shop.web.curl(&["--http2-prior-knowledge", &service.url("/")]).unwrap();
    assert_eq!(output, "ok", "{name}: the next client");
}

const PROTOCOL_ERROR: u32 = 1;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

#[test]
fn rapid_reset_ends_the_connection() {
    let shop = need_shop!();
    h2_attack(shop, "rapid-reset", &[ENHANCE_YOUR_CALM], "rapid_reset", |raw| {
        for i in 0..5000_u32 {
            let stream = 2 * i + 1;
            let mut bytes = frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &get("/"));
            bytes.extend(frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            if raw.send(&bytes).is_err() {
                return;
            }
        }
    });
}

#[test]
fn an_endless_header_block_ends_the_connection() {
    let shop = need_shop!();
    let codes = [ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR];
    h2_attack(shop, "continuation-flood", &codes, "frame_flood", |raw| {
        let _ = raw.send(&frame(kind::HEADERS, 0, 1, &get("/")));
        for i in 0..20_000 {
            let more = block(&[(&format!("x-{i}"), &"v".repeat(100))]);
            if raw.send(&frame(kind::CONTINUATION, 0, 1, &more)).is_err() {
                return;
            }
        }
    });
}

#[test]
fn floods_of_settings_pings_and_empty_data_end_the_connection() {
    let shop = need_shop!();
    let flood = |raw: &mut RawClient, bytes: Vec<u8>| {
        let burst = bytes.repeat(100);
        for _ in 0..2000 {
            if raw.send(&burst).is_err() {
                return;
            }
        }
    };
    h2_attack(shop, "settings-flood", &[ENHANCE_YOUR_CALM], "frame_flood", |raw| {
        flood(raw, frame(kind::SETTINGS, 0, 0, &[]))
    });
    h2_attack(shop, "ping-flood", &[ENHANCE_YOUR_CALM], "frame_flood", |raw| {
        flood(raw, frame(kind::PING, 0, 0, &[0; 8]))
    });
    h2_attack(shop, "empty-data", &[ENHANCE_YOUR_CALM], "frame_flood", |raw| {
        let head = block(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "cart")]);
        let _ = raw.send(&frame(kind::HEADERS, END_HEADERS, 1, &head));
        flood(raw, frame(kind::DATA, 0, 1, &[]));
    });
}

#[test]
fn broken_frames_end_the_connection_with_the_code_of_the_specification() {
    let shop = need_shop!();
    h2_attack(shop, "bad-stream", &[PROTOCOL_ERROR], "bad_frame", |raw| {
        let _ = raw.send(&frame(kind::HEADERS, END_HEADERS | END_STREAM, 2, &get("/")));
    });
    // RFC 9113 names FRAME_SIZE_ERROR here (6.7) and COMPRESSION_ERROR below (4.3), and allows a generic code in place of
    // any specific one (5.4): the h2 crate says PROTOCOL_ERROR.
    h2_attack(shop, "bad-size", &[FRAME_SIZE_ERROR, PROTOCOL_ERROR], "bad_frame", |raw| {
        let _ = raw.send(&frame(kind::PING, 0, 0, &[0; 3]));
    });
    h2_attack(shop, "bad-hpack", &[COMPRESSION_ERROR, PROTOCOL_ERROR], "bad_frame", |raw| {
        let _ = raw.send(&frame(
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ));
    });
}

/// Sends `bytes` and no more: closed after the head deadline of 10 s, by a clock that ticks every 2.5 s.
fn given_up(name: &str, bytes: &[u8], reason: &str) {
    let shop = need_shop!();
    let (_server, service) = h2_service(shop, name);
    let count =
        || shop.agent.metrics().unwrap().sum("mesh_agent_protocol_errors_total", &[("reason", reason)]);
    let before = count();
    let mut client = Client::new(shop.web.connect(service.at()).unwrap());
    client.send(bytes).unwrap();
    assert!(client.closes_within(PATIENCE), "{name}: left open");
    eventually(SOON, || {
        ensure!(count() > before, "{name}: {reason} isn't counted");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_preface_that_never_ends_is_given_up_after_its_deadline() {
    given_up("half-preface", &PREFACE[..18], "bad_preface");
}

#[test]
fn a_header_block_that_never_ends_is_given_up_after_its_deadline() {
    let settings = frame(kind::SETTINGS, 0, 0, &[]);
    given_up(
        "open-block",
        &[PREFACE, &settings, &frame(kind::HEADERS, 0, 1, &get("/"))].concat(),
        "frame_flood",
    );
}

/// A request that breaks RFC 9113, 8: the stream is reset or answered 4xx, the server never sees it, and the connection
/// may live on.
#[test]
fn malformed_requests_on_a_stream_never_reach_the_application() {
    let shop = need_shop!();
    let port = shop.port();
    let (reached, paths) = std::sync::mpsc::channel();
    let _server = H2Server::new(shop.carts[1].listen(port).unwrap(), None, move |request, mut respond| {
        let _ = reached.send(request.uri().to_string());
        async move { answer(&mut respond, "ok", None) }
    });
    let service = shop.expose("malformed", "http2", port, &[&shop.carts[1]]).unwrap();
    let ordinary = [(":method", "GET"), (":scheme", "http"), (":path", "/bad"), (":authority", "cart")];
    let with = |more: &[(&'static str, &'static str)]| [&ordinary[..], more].concat();
    for (name, fields) in [
        ("line break in a value", with(&[("x", "a\r\nInjected: b")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("upper case name", with(&[("X-Upper", "a")])),
        ("space in a name", with(&[("x y", "a")])),
        ("connection header", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("te other than trailers", with(&[("te", "gzip")])),
        ("host in conflict", with(&[("host", "other")])),
        ("pseudo-header after a field", with(&[("x", "a"), (":path", "/two")])),
        ("no path", vec![ordinary[0], ordinary[1], ordinary[3]]),
        ("unknown pseudo-header", with(&[(":odd", "a")])),
        ("content-length without a body", with(&[("content-length", "5")])),
    ] {
        let mut raw = RawClient::start(shop.web.connect(service.at()).unwrap()).unwrap();
        // No answer at all is one of the good ends: what the application saw decides below.
        raw.stream().set_read_timeout(Some(AT_ONCE)).unwrap();
        raw.send(&frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))).unwrap();
        let end = raw.read_until(|f| {
            f.kind == kind::GOAWAY || (f.stream == 1 && [kind::RST_STREAM, kind::HEADERS].contains(&f.kind))
        });
        if let Some(end) = end.filter(|f| f.kind == kind::HEADERS) {
            // :status 200 is entry 8 of the static table; anything else isn't a success.
            assert_ne!(end.payload.first(), Some(&0x88), "{name} was answered 200");
        }
    }
    let curl = ["--http2-prior-knowledge", &service.url("/good")];
    assert_eq!(shop.web.curl(&curl).unwrap(), "ok");
    let seen: Vec<String> = paths.try_iter().collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].ends_with("/good"), "{seen:?}");
}

#[test]
fn after_all_of_it_the_agent_is_as_it_was() {
    let shop = need_shop!();
    let service = shop.http("aftermath", "http", 1).unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", shop.agent.pid())).unwrap().count();
    let attack = || {
        for request in [
            "GET / HTTP/1.1\r\nX : y\r\n\r\n",
            "\0\0\0\0",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n",
        ] {
            let mut client = shop.client(&service).unwrap();
            client.send(request).unwrap();
        }
    };
    attack();
    let before = descriptors();
    for _ in 0..100 {
        attack();
    }
    eventually(PATIENCE, || {
        let now = descriptors();
        // Other tests of this file run at the same time and hold some.
        ensure!(now < before + 150, "{before} descriptors before, {now} after");
        Ok(())
    })
    .unwrap();
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
}
