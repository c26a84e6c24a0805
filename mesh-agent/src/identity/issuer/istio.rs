//! The issuer `istio:URL`: Istio's CSR protocol, as istiod, cert-manager's istio-csr and `mesh-agent controller` serve it.
//!
//! One request is one connection: TLS to the server under `rootCertFile`, the node's token of `tokenFile` read anew for
//! each (kubelets change it), and the service account as the impersonated identity, as ztunnel asks. The key stays here.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use rustls::client::{ClientConnection, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use x509_cert::der::pem::{self as pem_text, LineEnding};
use zeroize::Zeroizing;

use super::{IssueError, Issued, News};
use crate::grpc::{self, Call, Code, Status};
use crate::identity::id::SpiffeId;
use crate::identity::key::Key;
use crate::identity::proto::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use crate::identity::x509;
use crate::proxy::Stream;
use crate::report;
use crate::tls::{self, TlsStream, files};

/// A token is below this.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// Where to ask, and with what.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Options {
    /// `https://HOST:PORT`, without the scheme.
    pub authority: String,
    /// Bearer token of this node. Sent to that server alone.
    pub token_file: PathBuf,
    /// Who may have signed the server's certificate; roots of the mesh, too.
    pub root_cert_file: PathBuf,
    /// Istio's name of the cluster that this node is in.
    pub cluster_id: String,
}

/// A server of the protocol.
#[derive(Debug)]
pub struct Istio {
    options: Options,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    stamp: Option<files::Stamp>,
    tls: Option<Arc<ClientConfig>>,
    problem: Option<String>,
}

impl Istio {
    /// Nothing is read yet.
    pub fn new(options: Options) -> Self {
        Self { options, loaded: Mutex::default() }
    }

    /// The server.
    pub fn authority(&self) -> &str {
        &self.options.authority
    }

    /// Reads the roots again if they changed.
    pub(super) fn refresh(&self) -> News {
        let path = &self.options.root_cert_file;
        let stamp = files::Stamp::of(path);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamp == Some(stamp) {
            return News { problem: loaded.problem.clone(), ..News::default() };
        }
        loaded.stamp = Some(stamp);
        let read = || -> Result<_, files::FileError> {
            Ok((files::certificates(path)?, Arc::new(files::roots(path, false)?)))
        };
        match read().map_err(|error| report::chain(&error).to_string()).and_then(|(certificates, roots)| {
            let tls = client_config(roots).map_err(|error| error.to_string())?;
            Ok((certificates, tls))
        }) {
            Ok((certificates, tls)) => {
                loaded.tls = Some(Arc::new(tls));
                loaded.problem = None;
                News { roots: Some(certificates), ..News::default() }
            }
            Err(problem) => {
                loaded.problem = Some(problem.clone());
                News { problem: Some(problem), ..News::default() }
            }
        }
    }

    /// Asks for a certificate. Not bounded in time.
    pub(super) async fn issue(&self, id: &SpiffeId, lifetime: Duration) -> Result<Issued, IssueError> {
        let key = Key::generate()?;
        let csr = x509::request(&key, id.as_str()).map_err(unavailable)?;
        let csr =
            pem_text::encode_string("CERTIFICATE REQUEST", LineEnding::LF, &csr).map_err(unavailable)?;
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let question = CertificateRequest::new(csr, seconds, id.as_str());
        let headers = self.headers()?;
        let stream = self.connect().await?;
        let authority = &self.options.authority;
        let call = Call { scheme: "https", authority, path: CREATE_CERTIFICATE, headers };
        let answer = grpc::unary(stream, call, &question).await.map_err(refused)?;
        let (chain, roots) = certificates(&answer)?;
        Ok(Issued { chain, key: Arc::new(key), roots })
    }

    fn headers(&self) -> Result<HeaderMap, IssueError> {
        let path = &self.options.token_file;
        let failed = |what: String| {
            IssueError::Unavailable(format!("the token of {} can't be used: {what}", path.display()))
        };
        let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
        if length > LONGEST_TOKEN {
            return Err(failed("it is too large".to_owned()));
        }
        let token = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?);
        let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut bearer =
            HeaderValue::from_str(&bearer).map_err(|_| failed("it isn't one line of text".to_owned()))?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer);
        if let Ok(cluster) = HeaderValue::from_str(&self.options.cluster_id) {
            headers.insert(HeaderName::from_static("clusterid"), cluster);
        }
        Ok(headers)
    }

    async fn connect(&self) -> Result<Stream, IssueError> {
        let config = {
            let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            let why = || loaded.problem.clone().unwrap_or_else(|| "its roots weren't read yet".to_owned());
            loaded.tls.clone().ok_or_else(|| IssueError::Unavailable(why()))?
        };
        let authority = &self.options.authority;
        let host = host_of(authority).to_owned();
        let name = ServerName::try_from(host).map_err(unavailable)?;
        let tcp = TcpStream::connect(authority.as_str()).await.map_err(unavailable)?;
        let session =
            ClientConnection::new_with_alpn(config, name, vec![b"h2".to_vec()]).map_err(unavailable)?;
        let stream =
            TlsStream::client(tcp, session).await.map_err(|error| unavailable(report::chain(&error)))?;
        Ok(stream.into())
    }
}

/// `HOST` of `HOST:PORT`, without the brackets of an IPv6 address.
pub fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn client_config(roots: Arc<RootCertStore>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The chain to show, and the roots that came at its end.
fn certificates(
    answer: &CertificateResponse,
) -> Result<(Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>), IssueError> {
    let mut all = Vec::new();
    for text in &answer.cert_chain {
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            all.push(
                certificate.map_err(|error| IssueError::Invalid(format!("what came isn't PEM: {error}")))?,
            );
        }
    }
    let is_root = |certificate: &CertificateDer<'_>| {
        x509::facts(certificate).is_ok_and(|facts| facts.authority && facts.subject == facts.issuer)
    };
    let (roots, chain): (Vec<_>, Vec<_>) = all.into_iter().partition(is_root);
    if chain.is_empty() {
        return Err(IssueError::Invalid("no certificate came".to_owned()));
    }
    Ok((chain, roots))
}

fn refused(status: Status) -> IssueError {
    match status.code {
        Code::PERMISSION_DENIED => IssueError::Refused(status.to_string()),
        _ => IssueError::Unavailable(status.to_string()),
    }
}

fn unavailable(error: impl std::fmt::Display) -> IssueError {
    IssueError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_is_before_the_port() {
        for (authority, host) in [
            ("istiod.istio-system.svc:15012", "istiod.istio-system.svc"),
            ("10.0.0.1:15012", "10.0.0.1"),
            ("[fd00::1]:15012", "fd00::1"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }
}
