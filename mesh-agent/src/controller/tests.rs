//! The controller over its real protocol, with an agent's own issuer as the client; and each thing that a request can lack.
#![allow(clippy::unwrap_used, clippy::panic)]

mod requests;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::identity::{ServerIdentity, Tls};
use super::metrics::Metrics;
use super::serve::{Controller, Parts};
use super::tokens::{Authenticator, StaticTokens};
use crate::identity::issuer::{Files, IssueError, Issuer, IstioOptions};
use crate::identity::{SpiffeId, peer_of, x509};
use crate::model::build::BuildOptions;
use crate::source::{self, Published, Source};

const PODS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop}, spec: {nodeName: node-a, serviceAccountName: web}, status: {podIP: 10.1.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop}, spec: {nodeName: node-b, serviceAccountName: cart}, status: {podIP: 10.2.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: any-1, namespace: bank}, spec: {nodeName: node-a}, status: {podIP: 10.1.0.2}}
"#;
const TOKEN_A: &str = "token-of-node-a-0123456789";
const TOKEN_B: &str = "token-of-node-b-0123456789";

/// A controller that serves, with its files.
struct Scene {
    dir: TempDir,
    controller: Rc<Controller>,
    address: SocketAddr,
    _source: source::SourceThread,
}

impl Scene {
    /// Plays within a running controller.
    async fn play<F: Future<Output = ()>>(play: impl FnOnce(Rc<Self>) -> F) {
        let local = LocalSet::new();
        local
            .run_until(async {
                let dir = tempfile::tempdir().unwrap();
                let objects = dir.path().join("objects");
                fs::create_dir_all(&objects).unwrap();
                fs::write(objects.join("pods.yaml"), PODS).unwrap();
                let tokens = dir.path().join("tokens");
                fs::write(&tokens, format!("node-a {TOKEN_A}\nnode-b {TOKEN_B}\n")).unwrap();
                for (file, token) in
                    [("a", TOKEN_A), ("b", TOKEN_B), ("nobody", "token-of-nobody-0123456789")]
                {
                    fs::write(dir.path().join(file), token).unwrap();
                }
                crate::identity::testing::Root::in_files(dir.path());
                let authority = Files::secret(dir.path().to_owned());
                let roots = authority.refresh(SystemTime::now()).roots.unwrap();
                let server = ServerIdentity::new(Tls::Own(vec!["127.0.0.1".to_owned()]));
                server.refresh(&authority, SystemTime::now()).unwrap();
                let published = Published::new();
                let source = source::start(Source::Dir(objects), BuildOptions::default(), published.clone());
                let parts = Parts {
                    authority: Rc::new(authority),
                    server,
                    tokens: Authenticator::Static(StaticTokens::open(tokens).unwrap()),
                    trust_domain: "cluster.local".to_owned(),
                    lifetime: Duration::from_secs(3600),
                    published,
                    metrics: Rc::new(Metrics::new()),
                };
                let controller = Rc::new(Controller::new(parts, roots));
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::task::spawn_local(controller.clone().accept(listener));
                let ready = tokio::time::timeout(Duration::from_secs(10), async {
                    while !controller.is_ready() {
                        // Between two looks at what the source's thread has read.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                });
                ready.await.unwrap();
                play(Rc::new(Self { dir, controller, address, _source: source.unwrap() })).await;
            })
            .await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An agent's issuer, with the token in this file.
    fn issuer(&self, token: &str) -> Issuer {
        self.issuer_trusting(token, &self.path("ca.crt"))
    }

    fn issuer_trusting(&self, token: &str, root: &Path) -> Issuer {
        let issuer = Issuer::istio(IstioOptions {
            authority: self.address.to_string(),
            token_file: self.path(token),
            root_cert_file: root.to_owned(),
            cluster_id: "Kubernetes".to_owned(),
        });
        assert_eq!(issuer.refresh(SystemTime::now()).problem, None);
        issuer
    }

    fn count(&self, outcome: &str) -> u64 {
        self.controller.parts.metrics.count(outcome)
    }
}

async fn ask(issuer: &Issuer, namespace: &str, account: &str) -> Result<x509::Facts, IssueError> {
    ask_for(issuer, &SpiffeId::new("cluster.local", namespace, account)).await
}

async fn ask_for(issuer: &Issuer, id: &SpiffeId) -> Result<x509::Facts, IssueError> {
    let issued = issuer.issue(id, Duration::from_secs(600), SystemTime::now()).await?;
    assert_eq!(peer_of(&issued.chain).unwrap(), *id);
    assert_eq!(issued.roots.len(), 1);
    Ok(x509::facts(&issued.chain[0]).unwrap())
}

#[tokio::test]
async fn a_token_that_changes_is_sent_from_then_on() {
    Scene::play(async |scene| {
        fs::write(scene.path("mine"), "token-of-nobody-0123456789").unwrap();
        let issuer = scene.issuer("mine");
        let id = SpiffeId::new("cluster.local", "shop", "web");
        let ask = async || issuer.issue(&id, Duration::from_secs(600), SystemTime::now()).await;
        assert!(matches!(ask().await, Err(IssueError::Unavailable(why)) if why.contains("UNAUTHENTICATED")));
        // As kubelets do it: another file in its place.
        fs::write(scene.path("new"), TOKEN_A).unwrap();
        fs::rename(scene.path("new"), scene.path("mine")).unwrap();
        ask().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_node_gets_its_own_pods_identities_and_a_node_that_is_taken_over_no_others() {
    Scene::play(async |scene| {
        let (a, b) = (scene.issuer("a"), scene.issuer("b"));
        let facts = ask(&a, "shop", "web").await.unwrap();
        assert_eq!(facts.uris, ["spiffe://cluster.local/ns/shop/sa/web"]);
        assert!(!facts.authority);
        assert_eq!(facts.subject, "");
        ask(&a, "bank", "default").await.unwrap();
        ask(&b, "shop", "cart").await.unwrap();
        for (taken_over, namespace, account) in [
            (&a, "shop", "cart"),
            (&b, "shop", "web"),
            (&b, "bank", "default"),
            (&a, "bank", "web"),
            (&a, "shop", "default"),
            (&a, "shop", "nobody"),
        ] {
            let refusal = ask(taken_over, namespace, account).await.unwrap_err();
            assert!(
                matches!(&refusal, IssueError::Refused(why) if why.contains("PERMISSION_DENIED")),
                "{refusal}"
            );
        }
        assert_eq!((scene.count("signed"), scene.count("not_on_node")), (3, 6));
    })
    .await;
}

#[tokio::test]
async fn another_trust_domain_and_other_paths_are_refused() {
    Scene::play(async |scene| {
        let a = scene.issuer("a");
        let refusal = ask_for(&a, &SpiffeId::new("other.org", "shop", "web")).await.unwrap_err();
        assert!(matches!(refusal, IssueError::Refused(_)), "{refusal}");
        assert_eq!(scene.count("trust_domain"), 1);
        let path = SpiffeId::parse("spiffe://cluster.local/node/node-a").unwrap();
        let refusal = ask_for(&a, &path).await.unwrap_err().to_string();
        assert!(refusal.contains("INVALID_ARGUMENT"), "{refusal}");
    })
    .await;
}

#[tokio::test]
async fn who_shows_no_node_s_token_gets_nothing() {
    Scene::play(async |scene| {
        let nobody = scene.issuer("nobody");
        let refusal = ask(&nobody, "shop", "web").await.unwrap_err().to_string();
        assert!(refusal.contains("UNAUTHENTICATED") && !refusal.contains("token-of"), "{refusal}");
        // A token that is taken away ends what its bearer may.
        let a = scene.issuer("a");
        ask(&a, "shop", "web").await.unwrap();
        fs::write(scene.path("tokens"), format!("node-b {TOKEN_B}\n")).unwrap();
        scene.controller.refresh(SystemTime::now());
        let refusal = ask(&a, "shop", "web").await.unwrap_err().to_string();
        assert!(refusal.contains("UNAUTHENTICATED"), "{refusal}");
        assert_eq!(scene.count("unauthenticated"), 2);
    })
    .await;
}

#[tokio::test]
async fn a_token_is_sent_to_no_server_that_isn_t_the_controller() {
    Scene::play(async |scene| {
        let other = tempfile::tempdir().unwrap();
        crate::identity::testing::Root::in_files(other.path());
        let issuer = scene.issuer_trusting("a", &other.path().join("ca.crt"));
        let refusal = ask(&issuer, "shop", "web").await.unwrap_err();
        assert!(matches!(refusal, IssueError::Unavailable(_)), "{refusal}");
        assert!(refusal.to_string().contains("certificate"), "{refusal}");
        assert_eq!((scene.count("signed"), scene.count("unauthenticated")), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_moves_takes_its_identity_along() {
    Scene::play(async |scene| {
        let (a, b) = (scene.issuer("a"), scene.issuer("b"));
        fs::write(scene.path("objects/pods.yaml"), PODS.replace("node-b", "node-a")).unwrap();
        let moved = tokio::time::timeout(Duration::from_secs(10), async {
            while ask(&a, "shop", "cart").await.is_err() {
                // Between two tries, until the source's thread has read the file.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        moved.await.unwrap();
        assert!(matches!(ask(&b, "shop", "cart").await, Err(IssueError::Refused(_))));
    })
    .await;
}

#[tokio::test]
async fn a_certificate_lives_no_longer_than_is_allowed() {
    Scene::play(async |scene| {
        let a = scene.issuer("a");
        let id = SpiffeId::new("cluster.local", "shop", "web");
        let now = SystemTime::now();
        let issued = a.issue(&id, Duration::from_secs(30 * 86400), now).await.unwrap();
        let end = x509::facts(&issued.chain[0]).unwrap().not_after;
        assert!(end <= now + Duration::from_secs(3605), "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn the_authority_changes_and_agents_get_the_new_root() {
    Scene::play(async |scene| {
        let a = scene.issuer("a");
        ask(&a, "shop", "web").await.unwrap();
        let new = crate::identity::testing::Root::in_files(scene.dir.path());
        scene.controller.refresh(SystemTime::now());
        let id = SpiffeId::new("cluster.local", "shop", "web");
        let issued = a.issue(&id, Duration::from_secs(600), SystemTime::now()).await.unwrap();
        assert_eq!(issued.roots, [new.certificate]);
    })
    .await;
}
