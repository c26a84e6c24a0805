//! The servers from outside: what a scraper, a kubelet and a stranger on the socket get.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::testing::{Fixture, state};
use super::*;

/// Serves metrics from `state` and asks for `path`; returns the whole response.
async fn get(state: &AdminState, path: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_metrics(listener, state.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    server.abort();
    response
}

#[tokio::test]
async fn both_metrics_paths_answer_though_the_control_loop_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (state, commands) = state(dir.path());
    drop(commands);
    for path in ["/metrics", "/stats/prometheus"] {
        let response = get(&state, path).await;
        assert!(
            response.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4"),
            "{response}"
        );
        assert!(response.contains("mesh_agent_build_info{version="), "{response}");
    }
}

#[tokio::test]
async fn a_scrape_shows_the_configuration_in_force_and_its_warnings() {
    let dir = tempfile::tempdir().unwrap();
    let (state, commands) = state(dir.path());
    drop(commands);
    let response = get(&state, "/metrics").await;
    assert!(response.contains("mesh_agent_config_generation 1\n"), "{response}");
    assert!(response.contains("mesh_agent_config_rollback 1\n"), "{response}");
    assert!(response.contains("mesh_agent_config_warnings{code=\"MESH0107\"} 1\n"), "{response}");
}

#[tokio::test]
async fn readyz_names_what_start_up_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _commands) = state(dir.path());
    let guard = state.readiness.begin(task::KERNEL);
    let response = get(&state, "/readyz").await;
    assert!(
        response.starts_with("HTTP/1.1 503 ") && response.ends_with("kernel programs attached\n"),
        "{response}"
    );
    drop(guard);
    assert!(get(&state, "/readyz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn livez_fails_when_a_worker_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _commands) = state(dir.path());
    assert!(get(&state, "/livez").await.starts_with("HTTP/1.1 200 "));
    let hung = AdminState { alive: Arc::new(|| Err("worker 1 hangs".into())), ..state };
    let response = get(&hung, "/livez").await;
    assert!(response.starts_with("HTTP/1.1 503 ") && response.ends_with("worker 1 hangs\n"), "{response}");
}

#[tokio::test]
async fn connections_that_never_ask_do_not_keep_a_probe_from_being_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _commands) = state(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_metrics(listener, state));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Less than what a silent client has for its head.
    let probe = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(std::time::Duration::from_secs(10), probe).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The first to come was the first to go.
    assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0);
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_request_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _commands) = state(dir.path());
    let (mut client, server) = tokio::io::duplex(64);
    let serving = tokio::spawn(http::serve(server, move |request| routes::answer(state.clone(), request)));
    client.write_all(b"GET /v1/st").await.unwrap();
    serving.await.unwrap();
}

#[test]
fn the_socket_is_the_owner_s_and_goes_with_its_guard() {
    let fixture = Fixture::start();
    let path = fixture.dir.path().join(SOCKET_NAME);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(bind_socket(fixture.dir.path()), Err(SocketError::InUse(_))));
    let Fixture { dir, _socket, .. } = &fixture;
    assert!(path.exists() && dir.path().exists());
    let dir = fixture.dir;
    drop(fixture._socket);
    assert!(!path.exists());
    drop(dir);
}

#[tokio::test]
async fn a_dead_agent_s_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap());
    let (_listener, old) = bind_socket(dir.path()).unwrap();
    drop(_listener);
    let (_successor, _guard) = bind_socket(dir.path()).unwrap();
    drop(old);
    assert!(dir.path().join(SOCKET_NAME).exists(), "a guard removed its successor's socket");
}
