//! A peer made by hand that speaks to agents as an agent does, with whatever certificate and in whatever TLS a test gives it.
//!
//! Blocking, on std sockets, with `rustls` alone: nothing of the agent's own is in it, so that both can't be wrong alike.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provided};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, DigitallySignedStruct, DistinguishedName,
    Error, HandshakeKind, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use crate::h2raw::{END_HEADERS, END_STREAM, RawClient, frame, get, kind};
use crate::pki::Svid;
use crate::server::Server;

/// What agents offer each other.
pub const ALPN: &[u8] = b"mesh-h2";

/// A client's side of a connection.
pub type ClientTls = StreamOwned<ClientConnection, TcpStream>;

/// A configuration of the client's side that believes any server. Without papers it shows no certificate.
pub fn client(papers: Option<&Svid>, version: &'static SupportedProtocolVersion) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match papers {
        Some(Svid { chain, key }) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    (config.alpn_protocols, config.enable_sni) = (vec![ALPN.to_vec()], false);
    // For what is sent beside the session, when all else is done.
    config.enable_secret_extraction = true;
    Ok(config)
}

/// A configuration of the server's side that believes any client that shows a certificate.
pub fn server(papers: &Svid, version: &'static SupportedProtocolVersion) -> Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version])?;
    let builder = builder.with_client_cert_verifier(Arc::new(Anybody));
    let mut config = builder.with_single_cert(papers.chain.clone(), papers.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The same for a server that asks nobody for a certificate.
pub fn server_for_anybody(papers: &Svid, version: &'static SupportedProtocolVersion) -> Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version])?;
    let builder = builder.with_no_client_auth();
    let mut config = builder.with_single_cert(papers.chain.clone(), papers.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Shakes hands as the client: as far as the client can tell, which in TLS 1.3 is before the server has looked at its
/// certificate. What is kept of sessions is kept under one name, whatever is dialled.
pub fn shake_hands(config: &Arc<ClientConfig>, stream: TcpStream) -> Result<ClientTls> {
    let session = ClientConnection::new(config.clone(), ServerName::try_from("agent.test")?)?;
    finish(StreamOwned::new(session, stream))
}

/// The same with `early` sent before the handshake is done, if there is a ticket that allows it; whether there was.
pub fn shake_hands_with_early_data(
    config: &Arc<ClientConfig>,
    stream: TcpStream,
    early: &[u8],
) -> Result<(ClientTls, bool)> {
    let mut session = ClientConnection::new(config.clone(), ServerName::try_from("agent.test")?)?;
    let sent = match session.early_data() {
        Some(mut writer) => writer.write(early)? > 0,
        None => false,
    };
    Ok((finish(StreamOwned::new(session, stream))?, sent))
}

fn finish(mut tls: ClientTls) -> Result<ClientTls> {
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).context("shaking hands")?;
    }
    Ok(tls)
}

/// Asks for `/` over HTTP/2 as an agent would; true if the answer is 200.
///
/// # Errors
/// There is no connection, or it ended before an answer.
pub fn ask(config: &Arc<ClientConfig>, stream: TcpStream) -> Result<bool> {
    ask_on(&mut RawClient::start(shake_hands(config, stream)?)?)
}

/// The same on a connection on which nothing was asked yet.
///
/// # Errors
/// It ended before an answer.
pub fn ask_on(client: &mut RawClient<ClientTls>) -> Result<bool> {
    client.send(&frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &get("/")))?;
    let head = client.read_until(|frame| frame.kind == kind::HEADERS).context("closed without an answer")?;
    // The index of `:status: 200` (RFC 7541, Appendix A).
    Ok(head.payload.first() == Some(&0x88))
}

/// Sends a record of this type, encrypted as the session's next would be, which the session itself never would send.
pub fn send_out_of_turn(tls: ClientTls, content_type: u8, content: &[u8]) -> Result<TcpStream> {
    let (session, mut socket) = tls.into_parts();
    let (sequence, secrets) = session.dangerous_extract_secrets()?.tx;
    let (algorithm, key, iv) = match &secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => bail!("an algorithm that isn't known here"),
    };
    // RFC 8446, 5.2 and 5.3.
    let mut nonce: [u8; 12] = iv.as_ref().try_into()?;
    nonce[4..].iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
    let mut record = [content, &[content_type]].concat();
    let length = u16::try_from(record.len() + algorithm.tag_len())?;
    let head = [&[23, 3, 3][..], &length.to_be_bytes()].concat();
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref())?);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&head), &mut record)?;
    socket.write_all(&[head, record].concat())?;
    Ok(socket)
}

/// What came of one connection to an [`Impostor`].
#[derive(Clone, Debug)]
pub struct Met {
    /// How the handshake went, if it was done.
    pub handshake: Option<HandshakeKind>,
    /// What it was ended with, if it wasn't.
    pub error: String,
    /// The first bytes that the client sent after the handshake.
    pub heard: Vec<u8>,
}

/// A server that says it is an agent.
pub struct Impostor {
    _server: Server,
    met: Arc<Mutex<Vec<Met>>>,
}

impl Impostor {
    /// Serves `listener`.
    pub fn new(listener: TcpListener, config: ServerConfig) -> Self {
        let (config, met) = (Arc::new(config), Arc::<Mutex<Vec<Met>>>::default());
        let all = met.clone();
        let server = Server::new(listener, move |stream, _| {
            let met = meet(&config, stream);
            all.lock().unwrap_or_else(PoisonError::into_inner).push(met);
        });
        Self { _server: server, met }
    }

    /// Every connection that has ended or said something.
    pub fn met(&self) -> Vec<Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn meet(config: &Arc<ServerConfig>, stream: TcpStream) -> Met {
    let mut met = Met { handshake: None, error: String::new(), heard: vec![0; 24] };
    let attempt = || -> io::Result<usize> {
        let session = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let mut tls = StreamOwned::new(session, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        met.handshake = tls.conn.handshake_kind();
        tls.read(&mut met.heard)
    };
    let (heard, error) = match attempt() {
        Ok(read) => (read, String::new()),
        Err(error) => (0, error.to_string()),
    };
    met.heard.truncate(heard);
    Met { error, ..met }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(provided::default_provider())
}

/// Believes anybody: it is the other end that is tested.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
