//! The peer as a server: a ztunnel that stands before one pod.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Method, Response, StatusCode};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnection, WebPkiClientVerifier};
use rustls::version::TLS13;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::{ALPN, PORT, pump, roots, runtime};
use crate::SOON;
use crate::lab::eventually;
use crate::pki::Svid;
use crate::sockets::Host;
use crate::tls::Tls;

/// A CONNECT that a server was asked.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Of the request.
    pub method: Method,
    /// `:authority`.
    pub authority: String,
    /// The others.
    pub headers: HeaderMap,
    /// Who asked: what its certificate has in it.
    pub client: Vec<u8>,
    /// Where its connection came from.
    pub from: SocketAddr,
    /// Which of the server's connections that was.
    pub connection: usize,
}

impl Connect {
    /// True if the client's certificate names this SPIFFE id.
    pub fn is_from(&self, id: &str) -> bool {
        self.client.windows(id.len()).any(|window| window == id.as_bytes())
    }

    /// A header's value, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A server, as a ztunnel that stands before one pod.
pub struct Ztunnel {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    asked: Mutex<Vec<Connect>>,
    /// What the next ones are answered, instead of being connected.
    answers: Mutex<VecDeque<StatusCode>>,
    /// Connections that get GOAWAY, by number.
    goaway_before: AtomicUsize,
}

impl Ztunnel {
    /// Listens in `host` on the HBONE port and connects from it, with this certificate; clients are those that `root` signed.
    ///
    /// # Errors
    /// It can't listen.
    pub fn new(host: &Host, root: &CertificateDer<'static>, svid: &Svid) -> Result<Self> {
        // A former one's sockets may be on their way out.
        let listener = eventually(SOON, || host.listen(PORT))?;
        let config = Arc::new(server_config(root, svid)?);
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::<Shared>::default();
        let (of_thread, host) = (shared.clone(), host.clone());
        let thread = std::thread::spawn(move || {
            LocalSet::new().block_on(&runtime(), async move {
                tokio::select! {
                    _ = stopped => {}
                    _ = accept(listener, config, of_thread, host) => {}
                }
            });
        });
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Connections whose TLS came about.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Connect> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those for this address.
    pub fn asked_for(&self, to: SocketAddr) -> Vec<Connect> {
        let asked = self.asked();
        asked.into_iter().filter(|connect| connect.authority == to.to_string()).collect()
    }

    /// Answers the next requests so, and connects nobody.
    pub fn answer(&self, statuses: &[StatusCode]) {
        self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner).extend(statuses);
    }

    /// Says GOAWAY on every connection that is open now.
    pub fn go_away(&self) {
        self.shared.goaway_before.store(self.accepted(), Ordering::Relaxed);
    }
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    shared: Arc<Shared>,
    host: Host,
) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (socket, from) = listener.accept().await?;
        let (config, shared, host) = (config.clone(), shared.clone(), host.clone());
        spawn_local(async move {
            // A client that is refused, or refuses, is the test's to notice.
            let _ = serve(socket, from, config, shared, host).await;
        });
    }
}

async fn serve(
    socket: tokio::net::TcpStream,
    from: SocketAddr,
    config: Arc<ServerConfig>,
    shared: Arc<Shared>,
    host: Host,
) -> Result<()> {
    let tls = Tls::shake_hands(socket, ServerConnection::new(config)?.into()).await?;
    ensure!(tls.session().alpn_protocol() == Some(ALPN), "{:?}", tls.session().alpn_protocol());
    let client =
        tls.session().peer_certificates().and_then(|chain| chain.first()).context("no certificate")?.to_vec();
    let mut connection = h2::server::handshake(tls).await?;
    let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
    let mut look = tokio::time::interval(Duration::from_millis(10));
    let mut told = false;
    loop {
        let (request, respond) = tokio::select! {
            next = connection.accept() => next.context("closed")??,
            _ = look.tick() => {
                if !told && number < shared.goaway_before.load(Ordering::Relaxed) {
                    told = true;
                    connection.graceful_shutdown();
                }
                continue;
            }
        };
        let (head, body) = request.into_parts();
        let authority = head.uri.authority().map(ToString::to_string).unwrap_or_default();
        let connect = Connect {
            method: head.method,
            authority: authority.clone(),
            headers: head.headers,
            client: client.clone(),
            from,
            connection: number,
        };
        shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(connect);
        let answer = shared.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        spawn_local(connect_to(authority, answer, host.clone(), body, respond));
    }
}

async fn connect_to(
    authority: String,
    answer: Option<StatusCode>,
    host: Host,
    body: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<()> {
    let refuse = |status: StatusCode| Response::builder().status(status).body(());
    if let Some(status) = answer {
        respond.send_response(refuse(status)?, true)?;
        return Ok(());
    }
    let connected =
        tokio::task::spawn_blocking(move || host.connect(authority.parse()?).map_err(anyhow::Error::from));
    let Ok(socket) = connected.await? else {
        respond.send_response(refuse(StatusCode::SERVICE_UNAVAILABLE)?, true)?;
        return Ok(());
    };
    socket.set_nonblocking(true)?;
    let send = respond.send_response(refuse(StatusCode::OK)?, false)?;
    pump(tokio::net::TcpStream::from_std(socket)?, body, send).await;
    Ok(())
}

fn server_config(root: &CertificateDer<'static>, svid: &Svid) -> Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots(root)?, provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(svid.chain.clone(), svid.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
