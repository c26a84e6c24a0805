//! Keys are fetched, kept and given up, with a real server under a paused clock.
#![allow(clippy::unwrap_used)]
use std::cell::RefCell;
use std::rc::Rc;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::jwt::remote::{Source, Spec};
use crate::jwt::testing::{Signer, jwks};
use crate::proxy::Stream;
use crate::tls::Trust;

/// An HTTP server that answers every request with the next of its answers, the last one again and again.
struct Server {
    address: String,
    answers: Rc<RefCell<Vec<Answer>>>,
    requests: Rc<RefCell<Vec<String>>>,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: String,
    body: String,
}

fn ok(body: &str) -> Answer {
    Answer { status: StatusCode::OK, headers: String::new(), body: body.to_owned() }
}

fn with(status: u16, headers: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: format!("{headers}\r\n"),
        body: String::new(),
    }
}

impl Server {
    async fn new(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Self { address, answers: Rc::new(RefCell::new(answers)), requests: Rc::default() };
        let (answers, requests) = (server.answers.clone(), server.requests.clone());
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(serve(stream, answers.clone(), requests.clone()));
            }
        });
        server
    }

    fn says(&self, answers: Vec<Answer>) {
        *self.answers.borrow_mut() = answers;
    }

    fn asked(&self) -> usize {
        self.requests.borrow().len()
    }

    fn spec(&self) -> Spec {
        let source = Source::Keys(format!("http://{}/keys", self.address).parse().unwrap());
        Spec { source, timeout: Duration::from_secs(5) }
    }
}

async fn serve(mut stream: TcpStream, answers: Rc<RefCell<Vec<Answer>>>, requests: Rc<RefCell<Vec<String>>>) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    requests.borrow_mut().push(String::from_utf8(bytes).unwrap());
    let answer = {
        let mut answers = answers.borrow_mut();
        if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
    };
    let Answer { status, headers, body } = answer;
    let text =
        format!("HTTP/1.1 {} x\r\n{headers}content-length: {}\r\n\r\n{body}", status.as_u16(), body.len());
    let _ = stream.write_all(text.as_bytes()).await;
}

fn reach() -> Reach {
    let mut reach = Reach::new(SnapshotHandle::default(), "cluster.local".to_owned());
    reach.for_tests = Some(Trust::System);
    reach
}

/// A source that is kept, with what is known of it.
struct Kept {
    store: Store,
    remote: Arc<Remote>,
    stats: Arc<Stats>,
}

fn keep_fresh(spec: Spec) -> Kept {
    let (store, stats) = (Store::default(), Arc::new(Stats::default()));
    let remote = store.get(spec);
    spawn_local(keep(Arc::downgrade(&remote), reach(), stats.clone()));
    Kept { store, remote, stats }
}

impl Kept {
    fn count(&self, outcome: &str) -> u64 {
        self.stats.fetches().find(|(known, _)| *known == outcome).unwrap().1
    }

    /// Until so many fetches are over; real I/O under paused time.
    async fn fetched(&self, many: u64) {
        let all = || self.stats.fetches().map(|(_, count)| count).sum::<u64>();
        let waited = timeout(Duration::from_secs(7200), async {
            while all() < many {
                // The clock is paused: lets the server's thread of events run.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap();
    }
}

fn run_paused(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn key() -> String {
    jwks(&[Signer::new("ES256").jwk()])
}

#[test]
fn keys_are_fetched_again_when_the_source_says_and_the_last_good_copy_stays() {
    run_paused(async {
        let server =
            Server::new(vec![Answer { headers: "cache-control: max-age=600\r\n".into(), ..ok(&key()) }])
                .await;
        let kept = keep_fresh(server.spec());
        assert!(kept.remote.keys().is_none());
        let begun = Instant::now();
        kept.fetched(1).await;
        let first = kept.remote.keys().unwrap();
        kept.fetched(2).await;
        assert!(begun.elapsed() >= Duration::from_secs(600) && begun.elapsed() < Duration::from_secs(660));
        let second = kept.remote.keys().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(server.requests.borrow()[0].starts_with("GET /keys HTTP/1.1\r\n"));
        // It breaks, and the copy stays for as long as it is broken.
        server.says(vec![with(500, ""), ok("no keys"), ok("{\"keys\":[]}")]);
        kept.fetched(8).await;
        assert!(Arc::ptr_eq(&second, &kept.remote.keys().unwrap()));
        assert!(kept.remote.problem().unwrap().contains("isn't a key set"));
        assert_eq!((kept.count("status"), kept.count("invalid")), (1, 5));
        server.says(vec![ok(&key())]);
        kept.fetched(9).await;
        assert!(kept.remote.problem().is_none());
        assert!(!Arc::ptr_eq(&second, &kept.remote.keys().unwrap()));
    });
}

#[test]
fn a_source_that_fails_is_asked_more_and_more_seldom() {
    run_paused(async {
        let server = Server::new(vec![with(503, "")]).await;
        let kept = keep_fresh(server.spec());
        let begun = Instant::now();
        kept.fetched(5).await;
        // 1, 2, 4 and 8 seconds, and up to a quarter more.
        assert!(begun.elapsed() >= Duration::from_secs(15) && begun.elapsed() < Duration::from_secs(20));
        assert!(kept.remote.keys().is_none());
    });
}

#[test]
fn an_unknown_key_brings_the_next_look_forward_but_no_closer_than_the_bound() {
    run_paused(async {
        let server = Server::new(vec![ok(&key())]).await;
        let kept = keep_fresh(server.spec());
        let begun = Instant::now();
        kept.fetched(1).await;
        for _ in 0..1000 {
            kept.remote.hurry();
        }
        kept.fetched(2).await;
        assert!(begun.elapsed() >= SHORTEST && begun.elapsed() < SHORTEST + Duration::from_secs(5));
        assert_eq!(server.asked(), 2);
    });
}

#[test]
fn a_source_that_no_rule_has_is_not_asked_any_more() {
    run_paused(async {
        let server = Server::new(vec![ok(&key())]).await;
        let Kept { store, remote, stats } = keep_fresh(server.spec());
        while stats.fetches().next().unwrap().1 == 0 {
            // The clock is paused: lets the server's thread of events run.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let weak = Arc::downgrade(&remote);
        drop(remote);
        assert!(store.all().is_empty());
        // Paused time: long enough for several more looks.
        tokio::time::sleep(Duration::from_secs(7200)).await;
        assert_eq!(server.asked(), 1);
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn what_is_too_large_too_slow_or_elsewhere_is_refused() {
    async fn check(server: &Server, want: &str) {
        let outcome = fetch::fetch(&server.spec(), &reach()).await;
        assert_eq!(outcome.map(|_| "fetched").unwrap_or_else(|error| error.label()), want);
    }
    run_paused(async {
        let server = Server::new(vec![ok(&"x".repeat(300 * 1024))]).await;
        check(&server, "too_large").await;
        server.says(vec![with(302, "location: /keys\r\n")]);
        check(&server, "redirect").await;
        assert_eq!(server.asked(), 1 + 4);
        server.says(vec![with(302, "location: ftp://x/\r\n")]);
        check(&server, "redirect").await;
        server.says(vec![with(302, "")]);
        check(&server, "redirect").await;
        server.says(vec![with(302, "location: /other\r\n"), ok(&key())]);
        check(&server, "fetched").await;
        server.says(vec![with(404, "")]);
        check(&server, "status").await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = |address: String| Spec {
            source: Source::Keys(format!("http://{address}/").parse().unwrap()),
            timeout: Duration::from_secs(5),
        };
        // It takes connections and never answers.
        let silent = fetch::fetch(&spec(nobody.local_addr().unwrap().to_string()), &reach()).await;
        assert_eq!(silent.unwrap_err().label(), "timeout");
        let address = nobody.local_addr().unwrap().to_string();
        drop(nobody);
        assert_eq!(fetch::fetch(&spec(address), &reach()).await.unwrap_err().label(), "unreachable");
    });
}

#[test]
fn an_issuers_configuration_says_where_its_keys_are() {
    run_paused(async {
        let server = Server::new(vec![ok("")]).await;
        let issuer = format!("http://{}/realm", server.address);
        let configuration = |issuer: &str| {
            ok(&serde_json::json!({"issuer": issuer, "jwks_uri": format!("http://{}/k", server.address)})
                .to_string())
        };
        let spec = Spec { source: Source::Issuer(issuer.parse().unwrap()), timeout: Duration::from_secs(5) };
        server.says(vec![configuration(&issuer), ok(&key())]);
        assert!(fetch::fetch(&spec, &reach()).await.is_ok());
        let first_lines: Vec<_> = server
            .requests
            .borrow()
            .iter()
            .map(|request| request.lines().next().unwrap().to_owned())
            .collect();
        assert_eq!(first_lines, ["GET /realm/.well-known/openid-configuration HTTP/1.1", "GET /k HTTP/1.1"]);
        // Somebody else's configuration.
        server.says(vec![configuration("http://other"), ok(&key())]);
        assert_eq!(fetch::fetch(&spec, &reach()).await.unwrap_err().label(), "invalid");
    });
}

#[test]
fn tls_is_held_against_authorities_and_name() {
    use crate::tls::testing::{Authority, accept};
    async fn check(authority: &Authority, trusted: &Authority, host: &str) -> Result<Fetched, &'static str> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = authority.server(&[host], false);
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = accept(&server, stream).await {
                let mut stream = Stream::from(stream);
                let mut bytes = vec![0; 4096];
                let _ = stream.read(&mut bytes).await;
                let body = key();
                let text = format!("HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.flush().await;
            }
        });
        let mut reach = reach();
        reach.for_tests = Some(Trust::File(trusted.file()));
        let source = Source::Keys(format!("https://localhost:{port}/").parse().unwrap());
        let spec = Spec { source, timeout: Duration::from_secs(5) };
        fetch::fetch(&spec, &reach).await.map_err(|error| error.label())
    }
    // Real time: a handshake waits for nothing, and paused time would end it while the other side computes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (own, other) = (Authority::new(), Authority::new());
        assert!(check(&own, &own, "localhost").await.is_ok());
        assert_eq!(check(&own, &other, "localhost").await.err(), Some("tls"));
        assert_eq!(check(&own, &own, "elsewhere.test").await.err(), Some("tls"));
    });
}
