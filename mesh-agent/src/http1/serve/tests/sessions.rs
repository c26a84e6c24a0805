//! A session from the first response to the last request, over loopback.

use super::*;
use crate::route::{SessionKind, SessionPersistence};
use std::sync::Arc;

/// An endpoint that answers every request on every connection with its name.
async fn named(name: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn_local(async move {
                loop {
                    let mut got = Vec::new();
                    while !got.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => got.push(byte),
                            Err(_) => return,
                        }
                    }
                    let answer = format!("HTTP/1.1 204 {name}\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// Name of the endpoint that answered, and the line with the session if there is one.
async fn ask(lab: &mut Lab, with: &str) -> (String, Option<String>) {
    lab.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{with}\r\n")).await;
    let answer = head(&mut lab.client).await;
    let line =
        answer.lines().find(|line| line.to_ascii_lowercase().contains("sess=") || line.starts_with("sess:"));
    let name = answer.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
    (name.to_owned(), line.map(str::to_owned))
}

async fn stays(kind: SessionKind, back: impl Fn(&str) -> String) {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut lab = lab().await;
    let alive = [named("one").await, named("two").await];
    let how = SessionPersistence {
        kind,
        name: "sess".into(),
        per_rule: false,
        absolute_timeout: None,
        idle_timeout: None,
    };
    let how = Arc::new(how);
    let mut rule = testing::rule(&[0]);
    rule.session = Some(how.clone());
    testing::route(&lab.conn, rule, &[testing::service_port("any", &alive)]);
    let (first, line) = ask(&mut lab, "").await;
    let carried = back(&line.unwrap());
    for _ in 0..20 {
        assert_eq!(ask(&mut lab, &carried).await, (first.clone(), None));
    }
    // Its endpoint is gone: another has it, and says so.
    let survivor = alive[usize::from(first == "one")];
    let mut rule = testing::rule(&[0]);
    rule.session = Some(how);
    testing::route(&lab.conn, rule, &[testing::service_port("any", &[survivor, dead])]);
    let (second, line) = ask(&mut lab, &carried).await;
    assert_ne!(second, first);
    let carried = back(&line.unwrap());
    for _ in 0..20 {
        assert_eq!(ask(&mut lab, &carried).await, (second.clone(), None));
    }
}

#[test]
fn a_cookie_keeps_a_client_at_its_endpoint_for_as_long_as_that_is_there() {
    run(stays(SessionKind::Cookie { permanent: false, path: "/".into() }, |line| {
        let value = line.split_once("sess=").unwrap().1.split(';').next().unwrap();
        format!("Cookie: other=1; sess={value}\r\n")
    }));
}

#[test]
fn a_header_keeps_a_client_at_its_endpoint_for_as_long_as_that_is_there() {
    run(stays(SessionKind::Header, |line| format!("{line}\r\n")));
}
