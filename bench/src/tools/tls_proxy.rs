//! One side of a bare copy loop over mutual TLS, by rustls: the floor for what the agents do between nodes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{block_on, listen, say_ready};
use crate::mtls::SERVER_NAME;

/// What rustls makes one record of (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

#[derive(clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where every connection goes
    #[arg(long)]
    to: SocketAddr,
    /// TLS is what is listened for, rather than what is spoken upstream
    #[arg(long)]
    accept: bool,
    /// Directory with `ca.pem`, and `cert.pem` and `key.pem` of this side
    #[arg(long)]
    certificates: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let side = Side::new(args)?;
    let to = args.to;
    block_on(async {
        let listener = listen(args.listen)?;
        say_ready();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let side = side.clone();
            spawn_local(async move {
                // A connection that fails is seen by the client, which counts it.
                let _ = side.copy(stream, to).await;
            });
        }
    })
}

#[derive(Clone)]
enum Side {
    Client(TlsConnector),
    Server(TlsAcceptor),
}

impl Side {
    fn new(args: &Args) -> Result<Self> {
        let read = |name: &str| read(&args.certificates, name);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.pem")?)?)?;
        let (roots, chain) = (Arc::new(roots), vec![CertificateDer::from_pem_slice(&read("cert.pem")?)?]);
        let key = PrivateKeyDer::from_pem_slice(&read("key.pem")?)?;
        Ok(if args.accept {
            let verifier = WebPkiClientVerifier::builder(roots).build()?;
            let config = ServerConfig::builder().with_client_cert_verifier(verifier);
            Self::Server(Arc::new(config.with_single_cert(chain, key)?).into())
        } else {
            let config = ClientConfig::builder().with_root_certificates(roots);
            Self::Client(Arc::new(config.with_client_auth_cert(chain, key)?).into())
        })
    }

    async fn copy(&self, mut client: TcpStream, to: SocketAddr) -> Result<()> {
        client.set_nodelay(true)?;
        let mut server = TcpStream::connect(to).await?;
        server.set_nodelay(true)?;
        match self {
            Self::Client(connector) => {
                let mut server = connector.connect(ServerName::try_from(SERVER_NAME)?, server).await?;
                copy_bidirectional_with_sizes(&mut client, &mut server, RECORD, RECORD).await?;
            }
            Self::Server(acceptor) => {
                let mut client = acceptor.accept(client).await?;
                copy_bidirectional_with_sizes(&mut client, &mut server, RECORD, RECORD).await?;
            }
        }
        Ok(())
    }
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
}
