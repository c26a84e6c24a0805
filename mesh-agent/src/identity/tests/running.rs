//! The thread that requests and renews, on a clock that runs as fast as nothing happens.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::super::issuer::{IssueError, Issuer};
use super::super::run::{Parts, Run};
use super::super::testing::{Root, Scripted};
use super::super::view::Health;
use super::super::{Identities, Identity, NoIdentity, Options, Standing};
use crate::admin::api::CertificateState;
use crate::model::ObjectName;
use crate::telemetry::{AgentMetrics, Telemetry};

struct Scene {
    identities: Identities,
    script: Scripted,
    metrics: AgentMetrics,
}

/// Certificates live for so many seconds.
async fn scene<F: Future<Output = ()>>(lifetime: u64, script: Scripted, play: impl FnOnce(Scene) -> F) {
    let lifetime = Duration::from_secs(lifetime);
    let options = Options { trust_domain: "cluster.local".to_owned(), aliases: Vec::new(), lifetime };
    let (identities, told) = Identities::idle(&options);
    let metrics = Telemetry::quiet().metrics.agent().clone();
    let parts = Parts {
        lifetime,
        issuer: Issuer::Scripted(script.clone()),
        trust: identities.0.trust.clone(),
        health: identities.0.health.clone(),
        metrics: metrics.clone(),
    };
    let (began, start) = (Instant::now(), SystemTime::now());
    let run = Run::new(parts, move || start + began.elapsed());
    let local = LocalSet::new();
    local.spawn_local(run.run(told));
    local.run_until(play(Scene { identities, script, metrics })).await;
}

fn web() -> ObjectName {
    ObjectName::new("shop", "web")
}

fn serial(identity: &Identity) -> Option<String> {
    match &**identity.0.standing.load() {
        Standing::With(svid) => Some(svid.facts.serial.clone()),
        Standing::Without(_) => None,
    }
}

/// As time passes in whole seconds.
async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_issued_at_once_and_renewed_before_half_of_its_life() {
    let root = Root::new();
    scene(100, Scripted::new(&root), async |scene| {
        let identity = scene.identities.of(&web());
        assert_eq!(identity.server().unwrap_err(), NoIdentity::NotYetIssued);
        identity.decided().await;
        let (first, server) = (serial(&identity).unwrap(), identity.server().unwrap());
        seconds(39).await;
        assert_eq!(serial(&identity).unwrap(), first);
        seconds(12).await;
        assert_ne!(serial(&identity).unwrap(), first);
        assert!(!Arc::ptr_eq(&server, &identity.server().unwrap()), "the next handshake has the new one");
        assert_eq!(scene.identities.list()[0].state, CertificateState::Valid);
        assert_eq!(scene.metrics.certificate_requests.with_label_values(&["issued"]).get(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_down_the_certificate_serves_then_it_is_said_and_nothing_comes_instead() {
    let root = Root::new();
    scene(100, Scripted::new(&root), async |scene| {
        let identity = scene.identities.of(&web());
        identity.decided().await;
        let first = serial(&identity);
        scene.script.change(|script| script.fails = Some(IssueError::Unavailable("it is down".to_owned())));
        seconds(48).await;
        let state = |scene: &Scene| scene.identities.list()[0].state;
        seconds(4).await;
        assert_eq!((serial(&identity), state(&scene)), (first.clone(), CertificateState::Late));
        let codes: Vec<_> = scene.identities.warnings().into_iter().map(|warning| warning.code).collect();
        assert_eq!(codes, ["MESH0202"]);
        assert!(scene.identities.warnings()[0].message.contains("it is down"));
        let asked = scene.script.change(|script| script.asked.len());
        seconds(46).await;
        let tries = scene.script.change(|script| script.asked.len()) - asked;
        assert!((3..30).contains(&tries), "{tries} tries in what was left");
        assert_eq!(serial(&identity), first, "it serves to its end");
        // What comes after the end is told by the system's clock: see `life`.
        scene.script.change(|script| script.fails = None);
        seconds(70).await;
        assert_ne!(serial(&identity), first);
        assert_eq!((state(&scene), scene.identities.warnings()), (CertificateState::Valid, Vec::new()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_told_and_asked_for_again() {
    let root = Root::new();
    let script = Scripted::new(&root);
    script.change(|script| script.fails = Some(IssueError::Refused("not on this node".to_owned())));
    scene(100, script, async |scene| {
        let identity = scene.identities.of(&web());
        identity.decided().await;
        assert_eq!(identity.server().unwrap_err(), NoIdentity::Refused);
        assert_eq!(scene.identities.list()[0].state, CertificateState::Refused);
        let warnings = scene.identities.warnings();
        assert_eq!(warnings[0].code, "MESH0203");
        assert!(warnings[0].message.contains("not on this node"), "{}", warnings[0].message);
        assert_eq!(scene.identities.status().without, ["shop/web"]);
        // The controller may have learnt of the pod later than we did.
        scene.script.change(|script| script.fails = None);
        seconds(3).await;
        assert!(identity.server().is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_never_answers_is_given_up_in_time_and_holds_nobody_else_up() {
    let root = Root::new();
    let script = Scripted::new(&root);
    script.change(|script| script.hangs = true);
    scene(100, script, async |scene| {
        let identity = scene.identities.of(&web());
        seconds(5).await;
        scene.script.change(|script| script.hangs = false);
        let other = scene.identities.of(&ObjectName::new("shop", "cart"));
        other.decided().await;
        assert!(serial(&other).is_some());
        assert_eq!(serial(&identity), None);
        seconds(8).await;
        assert!(serial(&identity).is_some(), "asked again after the deadline");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_more_than_eight_are_asked_for_at_a_time() {
    let root = Root::new();
    scene(100, Scripted::new(&root), async |scene| {
        let all: Vec<_> =
            (0..30).map(|n| scene.identities.of(&ObjectName::new("shop", format!("sa-{n}")))).collect();
        seconds(1).await;
        assert!(all.iter().all(|identity| serial(identity).is_some()));
        assert_eq!(scene.script.change(|script| script.most_under_way), 8);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_used_is_no_longer_renewed() {
    let root = Root::new();
    scene(100, Scripted::new(&root), async |scene| {
        let identity = scene.identities.of(&web());
        let lives = [&scene.metrics.certificate_issued, &scene.metrics.certificate_expiry];
        identity.decided().await;
        seconds(1).await;
        for life in lives {
            assert_eq!(prometheus::core::Collector::collect(life)[0].get_metric().len(), 1);
        }
        drop(identity);
        seconds(200).await;
        assert_eq!(scene.script.change(|script| script.asked.len()), 1);
        assert!(scene.identities.list().is_empty());
        for life in lives {
            let families = prometheus::core::Collector::collect(life);
            assert!(families.iter().all(|family| family.get_metric().is_empty()));
        }
        let again = scene.identities.of(&web());
        again.decided().await;
        assert!(serial(&again).is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_isn_t_what_was_asked_for_is_never_used() {
    let (root, stranger) = (Root::new(), Root::new());
    let script = Scripted::new(&root);
    script.change(|script| script.uri = Some("spiffe://cluster.local/ns/shop/sa/db".to_owned()));
    scene(100, script, async |scene| {
        let identity = scene.identities.of(&web());
        seconds(1).await;
        assert_eq!(serial(&identity), None, "another's");
        assert!(scene.identities.list()[0].reason.contains("is for spiffe://cluster.local/ns/shop/sa/db"));
        scene.script.change(|script| (script.uri, script.root) = (None, Some(stranger.clone())));
        seconds(60).await;
        assert_eq!(serial(&identity), None, "signed by somebody whom nobody trusts");
        assert!(scene.identities.list()[0].reason.contains("isn't trusted"));
        assert!(scene.metrics.certificate_requests.with_label_values(&["invalid"]).get() > 1);
        scene.script.change(|script| script.root = Some(root.clone()));
        seconds(60).await;
        assert!(serial(&identity).is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_root_that_came_with_a_certificate_is_trusted_as_long_as_what_came_with_it() {
    let (old, new) = (Root::new(), Root::new());
    let script = Scripted::new(&old);
    script.change(|script| (script.roots, script.sends) = (Some(Vec::new()), vec![old.certificate.clone()]));
    scene(100, script, async |scene| {
        let trusted = |scene: &Scene| scene.identities.trust().bundle().certificates.clone();
        let identity = scene.identities.of(&web());
        identity.decided().await;
        let server = identity.server().unwrap();
        assert_eq!(trusted(&scene), std::slice::from_ref(&old.certificate));
        scene.script.change(|script| {
            (script.root, script.sends) = (Some(new.clone()), vec![new.certificate.clone()]);
        });
        seconds(55).await;
        assert_eq!(trusted(&scene), [old.certificate.clone(), new.certificate.clone()]);
        let client = identity.client(identity.id()).unwrap();
        assert!(super::meet(client, server).is_ok(), "the new one and the old one believe each other");
        seconds(55).await;
        assert_eq!(trusted(&scene), std::slice::from_ref(&new.certificate));
    })
    .await;
}

#[test]
fn nothing_that_is_shown_has_a_key() {
    let root = Root::new();
    let identities = root.identities();
    let identity = identities.of(&web());
    let text = format!(
        "{identities:?} {identity:?} {:?} {} {}",
        identity.0.standing.load(),
        serde_json::to_string(&identities.list()).unwrap(),
        serde_json::to_string(&identities.status()).unwrap()
    );
    for word in ["PRIVATE", "EcdsaKeyPair", "EVP_PKEY", "key:"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    let _: Arc<ArcSwap<Health>> = identities.0.health.clone();
}
