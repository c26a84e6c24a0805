//! However one end goes, the other sees what it would have seen without agents in between.

use super::*;

/// The application has begun a response with `said`; what the client sees of it behind the head, and whether it ends in a reset.
async fn cut(asked: &str, said: &str, end: fn(TcpStream)) -> (String, bool) {
    let mut mesh = Mesh::new().await;
    mesh.send(asked).await;
    let mut server = mesh.accept().await;
    head(&mut server).await;
    server.write_all(said.as_bytes()).await.unwrap();
    head(&mut mesh.client).await;
    let mut got = vec![0; 4];
    mesh.client.read_exact(&mut got).await.unwrap();
    end(server);
    let reset = mesh.client.read_to_end(&mut got).await.is_err();
    (String::from_utf8(got).unwrap(), reset)
}

fn reset_it(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\npart";
const CLOSE: &str = "HTTP/1.1 200 OK\r\n\r\npart";

#[test]
fn a_response_cut_short_never_ends_cleanly() {
    run(async {
        // Without its last bytes the framing says that something is missing.
        assert_eq!(cut(GET, LENGTH, drop).await, ("part".into(), false));
        let (got, _) = cut(GET, CHUNKED, drop).await;
        assert!(got.starts_with("4\r\n") && !got.contains("0\r\n\r\n"), "{got}");
        for said in [LENGTH, CHUNKED, CLOSE] {
            assert!(cut(GET, said, reset_it).await.1, "{said}");
        }
        // Where the end of the connection is the end of the body, an orderly one is.
        assert_eq!(cut(GET, CLOSE, drop).await, ("part".into(), false));
        // A client of version 1.0 goes by the end of the connection.
        assert!(cut("GET / HTTP/1.0\r\n\r\n", CHUNKED, drop).await.1);
    });
}

#[test]
fn a_response_that_breaks_the_protocol_is_a_502_or_a_reset() {
    run(async {
        for (said, status) in [
            ("HTTP/1.1 200 OK\nX: y\n\n", " 502 "),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", " 502 "),
            ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", " 502 "),
            ("SSH-2.0-x\r\n\r\n", " 502 "),
            ("", " 503 "),
        ] {
            let mut mesh = Mesh::new().await;
            mesh.send(GET).await;
            let mut server = mesh.accept().await;
            head(&mut server).await;
            server.write_all(said.as_bytes()).await.unwrap();
            drop(server);
            let got = head(&mut mesh.client).await;
            assert!(got.contains(status), "{said:?}: {got}");
        }
        let (got, reset) =
            cut(GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart", |server| {
                assert_eq!(server.try_write(b"\r\nx\r\n").unwrap(), 5);
            })
            .await;
        assert!(reset && !got.contains("0\r\n\r\n"), "{got}");
    });
}

/// True if the application's connection ends in a reset.
async fn is_reset(server: &mut TcpStream) -> bool {
    let mut got = [0; 64];
    loop {
        match server.read(&mut got).await {
            Ok(0) => return false,
            Ok(_) => {}
            Err(_) => return true,
        }
    }
}

#[test]
fn an_application_learns_that_its_client_is_gone_as_the_agent_did() {
    run(async {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
        let length = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab";
        for (asked, end) in [
            (GET, reset_it as fn(TcpStream)),
            (post, reset_it),
            (post, drop),
            (length, drop),
            (length, reset_it),
        ] {
            let mut mesh = Mesh::new().await;
            mesh.send(asked).await;
            let mut server = mesh.accept().await;
            head(&mut server).await;
            end(mesh.client);
            assert!(is_reset(&mut server).await, "{asked}");
        }
    });
}

#[test]
fn a_broken_chunk_is_never_the_end_of_a_request() {
    run(async {
        let mut mesh = Mesh::new().await;
        mesh.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        mesh.send("x\r\n").await;
        assert!(head(&mut mesh.client).await.starts_with("HTTP/1.1 400 "));
        let mut got = Vec::new();
        assert!(server.read_to_end(&mut got).await.is_err());
        assert!(!String::from_utf8(got).unwrap().contains("0\r\n"));
    });
}

#[test]
fn an_application_that_cannot_be_reached_is_a_503() {
    run(async {
        let mut mesh = Mesh::of(&Limits::default(), false).await;
        mesh.send(GET).await;
        assert!(head(&mut mesh.client).await.starts_with("HTTP/1.1 503 "));
        expect(&mut mesh.client, "connect failed\n").await;
        // The client's connection has nothing to do with it.
        mesh.send(GET).await;
        assert!(head(&mut mesh.client).await.starts_with("HTTP/1.1 503 "));
    });
}

#[test]
fn an_answer_before_the_whole_request_is_passed_on_and_the_rest_still_sent() {
    run(async {
        let mut mesh = Mesh::new().await;
        mesh.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        expect(&mut server, "abc").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        let got = head(&mut mesh.client).await;
        assert!(got.contains("Connection: close\r\n"), "{got}");
        expect(&mut mesh.client, "ok").await;
        mesh.send("def").await;
        expect(&mut server, "def").await;
        assert_eq!(rest(&mut mesh.client).await.unwrap(), "");
    });
}

#[test]
fn an_application_that_answers_nothing_is_given_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Limits { body_idle_timeout: Duration::from_millis(300), ..Limits::default() };
    LocalSet::new().block_on(&runtime, async {
        let mut mesh = Mesh::with(limit).await;
        mesh.send(GET).await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        assert!(head(&mut mesh.client).await.starts_with("HTTP/1.1 504 "));
    });
}
