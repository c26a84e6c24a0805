//! A certificate authority for unit tests, TLS servers under it, and rules that go to them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnection, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{By, Identity, Origination, Spec, Store, TlsStream, Trust, files, provider};
use crate::objects::{Kind, ObjectKey};

/// An authority with a directory for what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Writes a certificate for `names`, and its key, to files called after `stem`.
    pub(crate) fn issue(&self, stem: &str, names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, stem);
        params.subject_alt_names = names.iter().map(|name| san(name)).collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.dir.path().join(format!("{stem}.{end}"));
        std::fs::write(at("crt"), certificate.pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        Identity { certificate: at("crt"), key: at("key") }
    }

    /// A server with a certificate for `names`; with `mutual` it wants one of ours from its clients.
    pub(crate) fn server(&self, names: &[&str], mutual: bool) -> Arc<ServerConfig> {
        let identity = self.issue("server", names);
        let chain = files::certificates(&identity.certificate).unwrap();
        let key = files::key(&identity.key).unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(files::certificates(&self.file()).unwrap().remove(0)).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// What a rule with this authority asks for.
    pub(crate) fn spec(&self, host: &str) -> Spec {
        Spec {
            by: By::Object(ObjectKey::new(Kind::DestinationRule, Some("shop"), "outside")),
            server_name: ServerName::try_from(host.to_owned()).unwrap(),
            names: Vec::new(),
            trust: Trust::File(self.file()),
            identity: None,
        }
    }
}

fn san(name: &str) -> SanType {
    match name.contains("://") {
        true => SanType::URI(Ia5String::try_from(name).unwrap()),
        false => SanType::DnsName(Ia5String::try_from(name).unwrap()),
    }
}

/// `spec`, loaded.
pub(crate) fn origination(spec: Spec) -> Arc<Origination> {
    let store = Store::default();
    let origination = store.get(spec);
    store.refresh();
    origination
}

/// The server's end of a connection.
pub(crate) async fn accept(config: &Arc<ServerConfig>, tcp: TcpStream) -> Result<TlsStream, super::TlsError> {
    TlsStream::server(tcp, ServerConnection::new(config.clone()).unwrap()).await
}

/// Copies a file over another.
pub(crate) fn replace(with: &Path, at: &Path) {
    std::fs::copy(with, at).unwrap();
}
