//! Against a real redis-server (apt package redis-server): agents share a bucket, and one that is gone is noticed.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::lab::own_address;

/// A redis-server of our own on an address of its own, without files; ends with the guard.
struct Server {
    child: Child,
    address: SocketAddr,
    secrets: Arc<tempfile::TempDir>,
}

/// What the servers ask for.
const PASSWORD: &str = "not-for-the-log";

impl Server {
    fn start(address: SocketAddr) -> Option<Self> {
        let arguments = [
            "--port",
            &address.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            &address.ip().to_string(),
            "--requirepass",
            PASSWORD,
        ];
        let child = Command::new("redis-server").args(arguments).stdout(Stdio::null()).spawn();
        match child {
            Ok(child) => {
                let secrets = Arc::new(tempfile::tempdir().unwrap());
                std::fs::create_dir(secrets.path().join("shop")).unwrap();
                let server = Self { child, address, secrets };
                server.keep(PASSWORD);
                Some(server)
            }
            Err(error) => {
                println!(
                    "SKIPPED: redis-server can't be started ({error}): install the package redis-server"
                );
                None
            }
        }
    }

    /// Writes the file that clients read.
    fn keep(&self, password: &str) {
        std::fs::write(self.secrets.path().join("shop/redis"), format!("{password}\n")).unwrap();
    }

    fn client(&self) -> Redis {
        self.client_as(None)
    }

    fn client_as(&self, username: Option<&str>) -> Redis {
        let (address, username) = (self.address.to_string(), username.map(str::to_owned));
        let password_file = Some("shop/redis".into());
        Redis::start(RedisOptions { address, username, password_file }, self.secrets.path())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn subscriber(self) -> impl tracing::Subscriber + Send + Sync {
        let to = move || self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(to)
            .finish()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn two_agents_share_a_bucket_and_keys_dont() {
    let Some(server) = Server::start(own_address()) else { return };
    let (one, other) = (server.client(), server.client());
    eventually("connected", || one.is_connected() && other.is_connected()).await;
    let rate = Rate::new(5, Duration::from_secs(3600), 5);
    let mut passed = 0;
    for _ in 0..5 {
        for agent in [&one, &other] {
            passed += u32::from(agent.take(b"a".to_vec(), rate, LONG).await.unwrap().passes());
        }
    }
    assert_eq!(passed, 5);
    match one.take(b"a".to_vec(), rate, LONG).await.unwrap() {
        Verdict::Limited { retry_after } => {
            assert!(
                retry_after > Duration::from_secs(600) && retry_after <= Duration::from_secs(720),
                "{retry_after:?}"
            );
        }
        pass => panic!("{pass:?}"),
    }
    assert!(other.take(b"b".to_vec(), rate, LONG).await.unwrap().passes());
}

#[tokio::test]
async fn pipelined_questions_get_their_own_answers() {
    let Some(server) = Server::start(own_address()) else { return };
    let redis = server.client();
    eventually("connected", || redis.is_connected()).await;
    let rate = Rate::new(1, Duration::from_secs(3600), 1);
    let ask = |key: usize| redis.take(key.to_string().into_bytes(), rate, LONG);
    let asked = (0..200).map(|i| ask(i / 2)).collect::<Vec<_>>();
    let answers = futures_util::future::join_all(asked).await;
    for (i, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().passes(), i % 2 == 0, "question {i}");
    }
}

#[tokio::test]
async fn a_password_is_read_again_until_it_is_right_and_never_logged() {
    let Some(server) = Server::start(own_address()) else { return };
    server.keep("wrong-and-secret-too");
    let log = Log::default();
    let redis = {
        let _to_log = tracing::subscriber::set_default(log.clone().subscriber());
        let redis = server.client();
        eventually("refused", || log.text().contains("refuses the password")).await;
        assert!(!redis.is_connected());
        assert_eq!(redis.take(b"a".to_vec(), Rate::new(5, LONG, 5), LONG).await, Err(Unavailable));
        std::fs::remove_file(server.secrets.path().join("shop/redis")).unwrap();
        eventually("without a file", || log.text().contains("shop/redis can't be used")).await;
        server.keep(PASSWORD);
        eventually("connected", || redis.is_connected()).await;
        redis
    };
    assert!(redis.take(b"a".to_vec(), Rate::new(5, LONG, 5), LONG).await.unwrap().passes());
    let named = server.client_as(Some("default"));
    eventually("connected as a user", || named.is_connected()).await;
    let text = log.text();
    assert!(!text.contains(PASSWORD) && !text.contains("wrong-and-secret-too"), "{text}");
    assert_eq!(text.matches("refuses the password").count(), 1, "told once: {text}");
}

#[tokio::test]
async fn without_redis_nobody_waits_and_it_is_found_again() {
    let address = own_address();
    let Some(server) = Server::start(address) else { return };
    let redis = server.client();
    let rate = Rate::new(5, Duration::from_secs(3600), 5);
    eventually("connected", || redis.is_connected()).await;
    let _secrets = server.secrets.clone();
    drop(server);
    eventually("noticed", || !redis.is_connected()).await;
    assert_eq!(redis.take(b"a".to_vec(), rate, LONG).await, Err(Unavailable));
    let _server = Server::start(address);
    eventually("connected again", || redis.is_connected()).await;
    assert!(redis.take(b"a".to_vec(), rate, LONG).await.unwrap().passes());
}

#[tokio::test]
async fn a_server_that_doesnt_answer_costs_the_timeout_and_no_more() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let redis =
        Redis::start(RedisOptions { address, username: None, password_file: None }, Path::new("/secrets"));
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"$4\r\nname\r\n").await.unwrap();
    eventually("connected", || redis.is_connected()).await;
    let rate = Rate::new(5, Duration::from_secs(1), 5);
    assert_eq!(redis.take(b"a".to_vec(), rate, Duration::from_millis(20)).await, Err(Unavailable));
    // What comes late is taken for nobody else's answer.
    stream.write_all(b"*2\r\n:0\r\n:7\r\n*2\r\n:1\r\n:9\r\n").await.unwrap();
    let second = redis.take(b"b".to_vec(), rate, LONG).await;
    assert!(second == Err(Unavailable) || second.is_ok_and(Verdict::passes), "{second:?}");
}
