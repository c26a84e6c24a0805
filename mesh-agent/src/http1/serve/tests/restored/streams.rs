//! Bodies stream both ways at the same time, and whoever doesn't read holds the other end back.

use tokio::io::AsyncWrite;
use tokio::time::timeout;

use super::*;

/// More than all windows, buffers and sockets on the way hold.
const MUCH: usize = 64 * 1024 * 1024;

/// Writes until nothing is taken for a while; how much was.
async fn fill(to: &mut (impl AsyncWrite + Unpin)) -> usize {
    let part = vec![b'x'; 64 * 1024];
    let mut written = 0;
    while written < MUCH {
        // Far longer than a busy machine takes to move a part.
        match timeout(Duration::from_millis(500), to.write(&part)).await {
            Ok(wrote) => written += wrote.unwrap(),
            Err(_) => break,
        }
    }
    written
}

#[test]
fn an_application_that_does_not_read_holds_its_client_back() {
    run(async {
        let mut mesh = Mesh::new().await;
        mesh.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n")).await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        assert!(fill(&mut mesh.client).await < MUCH);
    });
}

#[test]
fn a_client_that_does_not_read_holds_the_application_back() {
    run(async {
        for framing in [format!("Content-Length: {MUCH}\r\n"), String::new()] {
            let mut mesh = Mesh::new().await;
            mesh.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut server = mesh.accept().await;
            head(&mut server).await;
            server.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n").as_bytes()).await.unwrap();
            assert!(fill(&mut server).await < MUCH);
        }
    });
}

#[test]
fn long_bodies_arrive_whole_both_ways_at_the_same_time() {
    run(async {
        const LENGTH: usize = 3 * 1024 * 1024;
        let mut mesh = Mesh::new().await;
        mesh.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        let body: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
        let echo = async {
            let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            server.write_all(said.as_bytes()).await.unwrap();
            let (from, mut to) = server.split();
            let mut all = from.take(LENGTH as u64);
            tokio::io::copy(&mut all, &mut to).await.unwrap()
        };
        let ask = async {
            let (mut from, mut to) = mesh.client.split();
            let read = async {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(from.read_u8().await.unwrap());
                }
                let mut got = vec![0; LENGTH];
                from.read_exact(&mut got).await.unwrap();
                got
            };
            tokio::join!(async { to.write_all(&body).await.unwrap() }, read).1
        };
        let (copied, got) = tokio::join!(echo, ask);
        assert_eq!(copied, LENGTH as u64);
        assert!(got == body);
    });
}

#[test]
fn what_is_there_is_passed_on_before_more_comes() {
    run(async {
        let mut mesh = Mesh::new().await;
        mesh.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        let mut server = mesh.accept().await;
        head(&mut server).await;
        expect(&mut server, "1\r\na").await;
        server.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n").await.unwrap();
        assert!(head(&mut mesh.client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        expect(&mut mesh.client, "1\r\nb").await;
        mesh.send("1\r\nc\r\n").await;
        expect(&mut server, "\r\n1\r\nc").await;
        server.write_all(b"1\r\nd\r\n").await.unwrap();
        expect(&mut mesh.client, "\r\n1\r\nd").await;
    });
}
