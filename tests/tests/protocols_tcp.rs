//! Bytes that the agent doesn't understand: carried as they are, ends and resets included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mesh_tests::lab::{Pod, SliceObject, eventually};
use mesh_tests::server::{Server, reset};
use mesh_tests::shop::{NAMESPACE, Service, Shop};
use mesh_tests::{AT_ONCE, PATIENCE, SOON, need_shop, peers, shared_shop};

shared_shop!("tcp");

/// A service on the first cart whose connections `handle` serves.
fn serve(
    shop: &Shop,
    name: &str,
    port_name: &str,
    handle: impl Fn(TcpStream) + Send + Sync + 'static,
) -> (Server, Service) {
    let port = shop.port();
    let server = Server::new(shop.carts[0].listen(port).unwrap(), move |stream, _| handle(stream));
    (server, shop.expose(name, port_name, port, &[&shop.carts[0]]).unwrap())
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// The service's endpoints by IPv6 as well.
fn with_v6(shop: &Shop, service: &Service) {
    let slice = SliceObject::new(NAMESPACE, &service.name, &format!("{}-6", service.name));
    let slice =
        slice.v6().port(&service.port_name, service.target).pods(NAMESPACE, [&*shop.carts[0] as &Pod]);
    shop.topology.mesh().write(&format!("{}-6.yaml", service.name), [slice.into()]).unwrap();
    eventually(SOON, || Ok(shop.web.connect(service.at6()).map(drop)?)).unwrap();
}

fn ask(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn bytes_go_both_ways_unchanged() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "tcpecho", "tcp", echo);
    with_v6(shop, &service);
    for address in [service.at(), service.at6()] {
        let mut stream = shop.web.connect(address).unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(ask(&mut stream, &bytes), bytes);
        assert_eq!(ask(&mut stream, b"\0"), b"\0");
    }
    let mut mapped = shop.web.connect_mapped(service.v4, 80).unwrap();
    assert_eq!(ask(&mut mapped, b"mapped"), b"mapped");
}

#[test]
fn an_ipv6_address_is_served_by_ipv4_endpoints_where_there_are_no_others() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "tcpcross", "tcp", echo);
    let mut stream = shop.web.connect(service.at6()).unwrap();
    assert_eq!(ask(&mut stream, b"across"), b"across");
}

#[test]
fn a_large_transfer_is_whole() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "tcplarge", "tcp", echo);
    let stream = shop.web.connect(service.at()).unwrap();
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut writer, copy) = (stream.try_clone().unwrap(), bytes.clone());
    let sender = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    (&stream).read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == bytes, "{} of {} bytes, or others", back.len(), bytes.len());
}

#[test]
fn a_client_that_closes_its_half_still_gets_the_answer() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "halfclient", "tcp", |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(format!("{} bytes", all.len()).as_bytes());
    });
    let mut stream = shop.web.connect(service.at()).unwrap();
    stream.write_all(b"request").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "7 bytes");
}

#[test]
fn a_server_that_closes_its_half_still_gets_the_rest() {
    let shop = need_shop!();
    let (report, received) = mpsc::channel();
    let (_server, service) = serve(shop, "halfserver", "tcp", move |mut stream| {
        let _ = stream.write_all(b"bye");
        let _ = stream.shutdown(Shutdown::Write);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = report.send(all);
    });
    let mut stream = shop.web.connect(service.at()).unwrap();
    let mut end = String::new();
    stream.read_to_string(&mut end).unwrap();
    assert_eq!(end, "bye");
    stream.write_all(b"one last word").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(received.recv_timeout(PATIENCE).unwrap(), b"one last word");
}

#[test]
fn a_server_that_speaks_first_is_heard_without_delay() {
    let shop = need_shop!();
    for (name, port_name) in [("banner", ""), ("bannertcp", "tcp"), ("bannersql", "mysql")] {
        let (_server, service) = serve(shop, name, port_name, |mut stream| {
            let _ = stream.write_all(b"220 ready\r\n");
            echo(stream);
        });
        // Detection that waited for the client would cost every one of them its whole second.
        let mut stream = eventually(SOON, || {
            let started = Instant::now();
            let mut stream = shop.web.connect(service.at())?;
            let mut banner = [0; 11];
            stream.read_exact(&mut banner)?;
            let took = started.elapsed();
            assert_eq!(&banner, b"220 ready\r\n");
            ensure!(took < Duration::from_millis(500), "{name}: the banner took {took:?}");
            Ok(stream)
        })
        .unwrap();
        assert_eq!(ask(&mut stream, b"GET / HTTP/1.1\r\n\r\n"), b"GET / HTTP/1.1\r\n\r\n");
    }
}

#[test]
fn what_is_not_http_is_opaque_where_nothing_is_declared() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "redislike", "", echo);
    let mut stream = shop.web.connect(service.at()).unwrap();
    assert_eq!(ask(&mut stream, b"*1\r\n$4\r\nPING\r\n"), b"*1\r\n$4\r\nPING\r\n");
    // Unclear until its line ends, and then no HTTP.
    let mut stream = shop.web.connect(service.at()).unwrap();
    assert_eq!(ask(&mut stream, b"GET key\r\n"), b"GET key\r\n");
}

#[test]
fn a_client_that_writes_and_closes_at_once_is_delivered() {
    let shop = need_shop!();
    let (report, received) = mpsc::channel();
    let (_server, service) = serve(shop, "hasty", "tcp", move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = report.send(all);
    });
    for i in 0..50 {
        let mut stream = shop.web.connect(service.at()).unwrap();
        stream.write_all(format!("message {i}").as_bytes()).unwrap();
        drop(stream);
    }
    let mut got: Vec<Vec<u8>> = (0..50).map(|_| received.recv_timeout(PATIENCE).unwrap()).collect();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 50);
    assert!(got.iter().all(|message| message.starts_with(b"message ")));
}

#[test]
fn a_reset_by_the_client_reaches_the_server() {
    let shop = need_shop!();
    let (report, received) = mpsc::channel();
    let (_server, service) = serve(shop, "resetclient", "tcp", move |mut stream| {
        let mut byte = [0];
        let _ = stream.read_exact(&mut byte);
        let _ = stream.write_all(b"k");
        let _ = report.send(stream.read(&mut byte).map_err(|error| error.kind()));
    });
    let mut stream = shop.web.connect(service.at()).unwrap();
    assert_eq!(ask(&mut stream, b"x"), b"k");
    reset(stream);
    assert_eq!(received.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_by_the_server_reaches_the_client() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "resetserver", "tcp", |mut stream| {
        let _ = stream.read(&mut [0; 16]);
        reset(stream);
    });
    let mut stream = shop.web.connect(service.at()).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 16]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    let of = |line: &serde_json::Value| line["destination_service"] == "resetserver.shop.svc.cluster.local";
    let line = shop.log_shows("resetserver", |line| of(line) && line["reporter"] == "source").unwrap();
    assert_eq!(line["response_flags"], "UC", "{line}");
}

#[test]
fn a_client_that_does_not_read_holds_the_server_back() {
    let shop = need_shop!();
    let (report, written) = mpsc::channel();
    let (_server, service) = serve(shop, "tcpslow", "tcp", move |mut stream| {
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let (block, mut sent) = (vec![b'x'; 64 * 1024], 0_usize);
        while let Ok(n) = stream.write(&block) {
            sent += n;
            if sent > 200_000_000 {
                break;
            }
        }
        let _ = report.send(sent);
    });
    let _stream = shop.web.connect(service.at()).unwrap();
    let sent = written.recv_timeout(PATIENCE * 3).unwrap();
    assert!(sent < 40_000_000, "the server could send {sent} bytes to a client that reads none");
}

#[test]
fn tls_passes_through_unopened_and_its_server_name_is_known() {
    let shop = need_shop!();
    let port = shop.port();
    let dir = shop.topology.scratch().join("tls");
    std::fs::create_dir_all(&dir).unwrap();
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=secret.example", "-addext", "subjectAltName=DNS:secret.example", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let http = format!(
        "server {{ listen {port} ssl; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 sealed; }} }}",
        cert.display(),
        key.display()
    );
    let _nginx = peers::nginx(&shop.topology, &shop.carts[0], port, &http).unwrap();
    for (name, port_name) in [("tlsdeclared", "https"), ("tlsfound", "")] {
        let service = shop.expose(name, port_name, port, &[&shop.carts[0]]).unwrap();
        let resolve = format!("secret.example:80:{}", service.v4);
        let ca = cert.display().to_string();
        let args = ["--resolve", &resolve, "--cacert", &ca, "https://secret.example:80/"];
        assert_eq!(shop.web.curl(&args).unwrap(), "sealed", "verified against the server's own certificate");
        let host = format!("{name}.shop.svc.cluster.local");
        let of =
            |line: &serde_json::Value| line["destination_service"] == *host && line["reporter"] == "source";
        let line = shop.log_shows(name, of).unwrap();
        assert_eq!(line["requested_server_name"], "secret.example", "{line}");
    }
}

#[test]
fn a_connect_that_fails_goes_to_another_endpoint_unnoticed() {
    let shop = need_shop!();
    let port = shop.port();
    // Two of three endpoints have no server.
    let _server = Server::new(shop.carts[2].listen(port).unwrap(), |stream, _| echo(stream));
    let [a, b, c] = &shop.carts;
    let service = shop.expose("tcpfailover", "tcp", port, &[a, b, c]).unwrap();
    for i in 0..20 {
        let mut stream = shop.web.connect(service.at()).unwrap();
        assert_eq!(ask(&mut stream, b"there?"), b"there?", "connection {i}");
    }
}

#[test]
fn a_service_whose_endpoints_all_refuse_ends_the_connection_at_once() {
    let shop = need_shop!();
    let service = shop.expose("tcpdead", "tcp", shop.port(), &[&shop.carts[0]]).unwrap();
    let started = Instant::now();
    // Refused so fast that connect(2) itself may tell of it.
    let end = shop.web.connect(service.at()).and_then(|mut stream| stream.read(&mut [0; 16]));
    assert!(
        matches!(&end, Ok(0)) || matches!(&end, Err(e) if e.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
    assert!(started.elapsed() < AT_ONCE, "took {:?}", started.elapsed());
    let of = |line: &serde_json::Value| line["destination_service"] == "tcpdead.shop.svc.cluster.local";
    let line = shop.log_shows("tcpdead", |line| of(line) && line["reporter"] == "source").unwrap();
    assert_eq!(line["response_flags"], "UF", "{line}");
}

#[test]
fn connections_and_bytes_are_counted_by_both_reporters() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "tcpcounted", "tcp", |mut stream| {
        let _ = stream.read_exact(&mut [0; 100]);
        let _ = stream.write_all(&[b'x'; 3000]);
    });
    for _ in 0..3 {
        let mut stream = shop.web.connect(service.at()).unwrap();
        stream.write_all(&[b'y'; 100]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 3000);
    }
    shop.metrics_show(|metrics| {
        for reporter in ["source", "destination"] {
            let labels = [
                ("reporter", reporter),
                ("destination_service_name", "tcpcounted"),
                ("source_workload", "web"),
                ("destination_workload", "cart"),
                ("request_protocol", "tcp"),
            ];
            let sum = |name| metrics.sum(name, &labels);
            let figures = (
                sum("istio_tcp_connections_opened_total"),
                sum("istio_tcp_connections_closed_total"),
                // Istio's names are seen from the response: sent is what went to the client.
                sum("istio_tcp_sent_bytes_total"),
                sum("istio_tcp_received_bytes_total"),
            );
            ensure!(figures == (3.0, 3.0, 9000.0, 300.0), "{reporter}: {figures:?}");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn many_connections_at_once_are_each_served() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "tcpmany", "tcp", echo);
    let mut streams: Vec<TcpStream> = (0..300).map(|_| shop.web.connect(service.at()).unwrap()).collect();
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&(i as u32).to_be_bytes()).unwrap();
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(u32::from_be_bytes(back), i as u32);
    }
}

#[test]
fn an_idle_connection_stays_open() {
    let shop = need_shop!();
    let (_server, service) = serve(shop, "tcpidle", "tcp", echo);
    let mut stream = shop.web.connect(service.at()).unwrap();
    assert_eq!(ask(&mut stream, b"a"), b"a");
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let waited = stream.read(&mut [0]).unwrap_err().kind();
    assert!(matches!(waited, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waited:?}");
    assert_eq!(ask(&mut stream, b"b"), b"b");
}
