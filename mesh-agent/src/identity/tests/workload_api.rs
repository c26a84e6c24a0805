//! The SPIFFE Workload API, with a server on a unix socket that is written from its description.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use prost::Message;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::net::UnixListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::super::issuer::Issuer;
use super::super::proto::{SvidResponse, WorkloadSvid};
use super::super::{Identities, NoIdentity, Options, Standing};
use crate::model::ObjectName;
use crate::telemetry::Telemetry;

/// Pushes what a test gives it to whoever asks as the specification says.
async fn serve(listener: UnixListener, pushed: Arc<Mutex<mpsc::UnboundedReceiver<SvidResponse>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let Some(Ok((request, mut respond))) = connection.accept().await else { continue };
        assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
        assert_eq!(request.headers()["workload.spiffe.io"], "true");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        let driver = spawn_local(async move { while connection.accept().await.is_some() {} });
        let mut pushed = pushed.lock().await;
        while let Some(answer) = pushed.recv().await {
            if answer.svids.is_empty() {
                // No SVID at all stands for a server that goes away.
                break;
            }
            let mut frame = BytesMut::new();
            frame.put_u8(0);
            frame.put_u32(u32::try_from(answer.encoded_len()).unwrap());
            answer.encode(&mut frame).unwrap();
            body.send_data(Bytes::from(frame), false).unwrap();
        }
        driver.abort();
    }
}

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn svid(&self, id: &str) -> WorkloadSvid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id).unwrap())];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        WorkloadSvid {
            spiffe_id: id.to_owned(),
            x509_svid: certificate.der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: self.0.der().to_vec(),
        }
    }
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn identities(socket: PathBuf) -> Identities {
    let options = Options {
        trust_domain: "cluster.local".to_owned(),
        aliases: Vec::new(),
        lifetime: Duration::from_secs(3600),
    };
    let metrics = Telemetry::quiet().metrics.agent().clone();
    Identities::start(options, Issuer::spiffe(socket), metrics).unwrap()
}

/// Waits until `is` holds.
async fn eventually(what: &str, is: impl Fn() -> bool) {
    let reached = timeout(Duration::from_secs(10), async {
        while !is() {
            // Between two looks.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(reached.await.is_ok(), "{what} never came");
}

#[tokio::test]
async fn what_the_workload_api_pushes_is_used_for_those_whom_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (push, pushed) = mpsc::unbounded_channel();
    let local = LocalSet::new();
    local.spawn_local(serve(listener, Arc::new(Mutex::new(pushed))));
    local
        .run_until(async {
            let identities = identities(socket);
            let (web, cart) = (
                identities.of(&ObjectName::new("shop", "web")),
                identities.of(&ObjectName::new("shop", "cart")),
            );
            let ca = Ca::new();
            let first = ca.svid(WEB);
            let foreign = ca.svid("spiffe://other.org/ns/shop/sa/web");
            push.send(SvidResponse { svids: vec![foreign, first.clone()] }).unwrap();
            eventually("the certificate", || web.server().is_ok()).await;
            let shown = |identity: &super::super::Identity| match &**identity.0.standing.load() {
                Standing::With(svid) => svid.chain[0].to_vec(),
                Standing::Without(_) => Vec::new(),
            };
            assert_eq!(shown(&web), first.x509_svid);
            let met = super::meet(web.client(web.id()).unwrap(), web.server().unwrap()).unwrap();
            assert_eq!(met.client.as_str(), WEB);
            eventually("the refusal", || cart.server().unwrap_err() == NoIdentity::Refused).await;

            // Rotation, root included: the API pushes, nobody asks.
            let (next, server) = (Ca::new(), web.server().unwrap());
            let both = [ca.0.der().to_vec(), next.0.der().to_vec()].concat();
            let mut second = next.svid(WEB);
            second.bundle = both;
            push.send(SvidResponse { svids: vec![second.clone()] }).unwrap();
            eventually("the next certificate", || shown(&web) == second.x509_svid).await;
            assert_eq!(identities.trust().bundle().certificates.len(), 2);
            assert!(super::meet(web.client(web.id()).unwrap(), server).is_ok());

            // It goes away and comes back; what came stays meanwhile.
            push.send(SvidResponse { svids: Vec::new() }).unwrap();
            eventually("the warning", || identities.warnings().iter().any(|w| w.code == "MESH0201")).await;
            assert_eq!(shown(&web), second.x509_svid);
            let third = next.svid(WEB);
            push.send(SvidResponse { svids: vec![third.clone()] }).unwrap();
            eventually("the one after the pause", || shown(&web) == third.x509_svid).await;
            let until = SystemTime::now();
            assert!(identities.list().iter().any(|row| row.not_after.is_some_and(|end| end > until)));
        })
        .await;
}
