//! A peer of HBONE, as client and as server, written from the protocol's description (Istio, "HBONE"; RFC 9113, 8.5) with rustls
//! and h2: HTTP/2 over mutual TLS to port 15008, each stream a CONNECT whose `:authority` is the pod's address and port.
//!
//! Shares no code with the agent. What goes through a tunnel comes out as a socket here, so that any client or server of the
//! harness can speak on it.

mod server;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

use crate::pki::Svid;
use crate::sockets::Host;
use crate::tls::Tls;

use crate::PATIENCE;
pub use server::{Connect, Ztunnel};

/// The port.
pub const PORT: u16 = 15008;
const ALPN: &[u8] = b"h2";

/// A client's connection, on a thread of its own; closed with the guard.
pub struct Peer {
    asks: Option<mpsc::UnboundedSender<Ask>>,
    closed: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// What came of a CONNECT: its status, the answer's headers, and the tunnel if there is one.
pub struct Answer {
    /// `:status`.
    pub status: StatusCode,
    /// The others.
    pub headers: HeaderMap,
    /// This end of the tunnel.
    pub tunnel: Option<TcpStream>,
}

struct Ask(Request<()>, oneshot::Sender<Result<Answer>>);

impl Peer {
    /// Connects from `host` to `to` as the workload of `svid`, or without a certificate, and believes a server that `root` signed.
    ///
    /// # Errors
    /// The server's refusal too, which may come after the handshake: it has sent SETTINGS when this returns.
    pub fn connect(
        host: &Host,
        to: SocketAddr,
        root: &CertificateDer<'static>,
        svid: Option<&Svid>,
    ) -> Result<Self> {
        let socket = host.connect(to).with_context(|| format!("connecting to {to}"))?;
        Self::over(socket, client_config(root, svid, ALPN)?)
    }

    /// Speaks on `socket`.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn over(socket: TcpStream, config: ClientConfig) -> Result<Self> {
        socket.set_nonblocking(true)?;
        let (asks, asked) = mpsc::unbounded_channel();
        let (begun, begins) = std::sync::mpsc::channel();
        let closed = Arc::<Mutex<Option<String>>>::default();
        let note = closed.clone();
        let thread = std::thread::spawn(move || {
            LocalSet::new().block_on(&runtime(), async move {
                match tokio::time::timeout(PATIENCE, begin(socket, config, note)).await {
                    Ok(Ok(client)) => {
                        let _ = begun.send(Ok(()));
                        serve_asks(client, asked).await;
                    }
                    Ok(Err(error)) => drop(begun.send(Err(error))),
                    Err(elapsed) => drop(begun.send(Err(elapsed.into()))),
                }
            });
        });
        begins.recv().context("the peer's thread ended")??;
        Ok(Self { asks: Some(asks), closed, thread: Some(thread) })
    }

    /// Asks for a tunnel to `authority`, with these headers.
    ///
    /// # Errors
    /// The stream is reset, or the connection takes no more.
    pub fn open(&self, authority: impl ToString, headers: &[(&'static str, &str)]) -> Result<Answer> {
        let mut request = Request::builder().method(Method::CONNECT).uri(authority.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(())?)
    }

    /// The tunnel to `authority`.
    ///
    /// # Errors
    /// It is refused.
    pub fn tunnel(&self, authority: impl ToString) -> Result<TcpStream> {
        let answer = self.open(authority, &[])?;
        answer.tunnel.with_context(|| format!("answered {}", answer.status))
    }

    /// Sends any request.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn ask(&self, request: Request<()>) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        let asks = self.asks.as_ref().context("it is closed")?;
        asks.send(Ask(request, answer)).map_err(|_| anyhow!("the peer's thread ended"))?;
        answered.blocking_recv().context("the peer's thread ended")?
    }

    /// How the connection ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.asks.take();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

type Client = h2::client::SendRequest<Bytes>;

async fn begin(
    socket: TcpStream,
    config: ClientConfig,
    closed: Arc<Mutex<Option<String>>>,
) -> Result<Client> {
    let socket = tokio::net::TcpStream::from_std(socket)?;
    let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let session = ClientConnection::new(Arc::new(config), name)?;
    let tls = Tls::shake_hands(socket, session.into()).await?;
    // As much as ztunnel lets a server have under way: with less, one stream that isn't read from stops the others.
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(4 * 1024 * 1024).initial_connection_window_size(16 * 1024 * 1024);
    let (client, mut connection) = builder.handshake::<_, Bytes>(tls).await?;
    // Until then the server may refuse the certificate.
    let mut ping = connection.ping_pong().context("its only one")?;
    let answered = async {
        tokio::select! {
            ended = &mut connection => Err(ended.err().map_or_else(|| anyhow!("closed at once"), Into::into)),
            pong = ping.ping(h2::Ping::opaque()) => pong.map(|_| ()).map_err(Into::into),
        }
    };
    answered.await?;
    spawn_local(async move {
        let how = connection.await.map_or_else(|error| error.to_string(), |()| "closed".to_owned());
        *closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
    });
    Ok(client)
}

async fn serve_asks(client: Client, mut asked: mpsc::UnboundedReceiver<Ask>) {
    while let Some(Ask(request, answer)) = asked.recv().await {
        let client = client.clone();
        spawn_local(async move {
            let told = tokio::time::timeout(PATIENCE, ask(client, request)).await;
            let _ = answer.send(told.map_err(Into::into).and_then(|told| told));
        });
    }
}

async fn ask(client: Client, request: Request<()>) -> Result<Answer> {
    let is_connect = request.method() == Method::CONNECT;
    let (response, send) = client.ready().await?.send_request(request, !is_connect)?;
    let (head, body) = response.await?.into_parts();
    let (status, headers) = (head.status, head.headers);
    if !is_connect || status != StatusCode::OK {
        return Ok(Answer { status, headers, tunnel: None });
    }
    let (near, far) = pair()?;
    spawn_local(pump(far, body, send));
    Ok(Answer { status, headers, tunnel: Some(near) })
}

/// Two ends of a connection: one to hand out, one to serve.
fn pair() -> Result<(TcpStream, tokio::net::TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    near.set_read_timeout(Some(PATIENCE))?;
    near.set_write_timeout(Some(PATIENCE))?;
    let (far, _) = listener.accept()?;
    far.set_nonblocking(true)?;
    Ok((near, tokio::net::TcpStream::from_std(far)?))
}

/// Carries both directions with their ends; a reset on either side is one on the other.
async fn pump(mut socket: tokio::net::TcpStream, mut body: RecvStream, mut send: SendStream<Bytes>) {
    let (mut read, mut write) = socket.split();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = tokio::select! {
                count = read.read(&mut buffer) => count?,
                reason = poll_fn(|cx| send.poll_reset(cx)) => return Err(anyhow!("reset: {:?}", reason?)),
            };
            if count == 0 {
                send.send_data(Bytes::new(), true)?;
                return Ok(());
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                send.reserve_capacity(rest.len());
                let room = match send.capacity() {
                    0 => poll_fn(|cx| send.poll_capacity(cx)).await.context("closed")??,
                    room => room,
                };
                let (now, later) = rest.split_at(room.min(rest.len()));
                send.send_data(Bytes::copy_from_slice(now), false)?;
                rest = later;
            }
        }
    };
    let down = async {
        while let Some(data) = body.data().await {
            let data = data?;
            write.write_all(&data).await?;
            body.flow_control().release_capacity(data.len())?;
        }
        write.shutdown().await?;
        Result::<()>::Ok(())
    };
    if tokio::try_join!(up, down).is_err() {
        send.send_reset(Reason::CONNECT_ERROR);
        let _ = socket.set_zero_linger();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn roots(root: &CertificateDer<'static>) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    Ok(Arc::new(roots))
}

/// For a client that offers `alpn`.
///
/// # Errors
/// The certificate or the root is none.
pub fn client_config(
    root: &CertificateDer<'static>,
    svid: Option<&Svid>,
    alpn: &[u8],
) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chains = WebPkiServerVerifier::builder_with_provider(roots(root)?, provider.clone()).build()?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(chains)));
    let mut config = match svid {
        Some(svid) => config.with_client_auth_cert(svid.chain.clone(), svid.key.clone_key())?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// Chains alone: workloads have no DNS names.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(leaf, above, name, ocsp, now) {
            // Asked once all else was good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
