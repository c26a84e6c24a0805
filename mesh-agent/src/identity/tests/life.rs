//! What an identity hands out as its certificate comes, ages and goes.

use std::time::{Duration, SystemTime};

use super::super::authority::Life;
use super::super::testing::Root;
use super::super::{Identities, NoIdentity, Options};
use crate::model::ObjectName;

fn nobody_issues() -> Identities {
    let options = Options {
        trust_domain: "cluster.local".to_owned(),
        aliases: Vec::new(),
        lifetime: Duration::from_secs(3600),
    };
    Identities::idle(&options).0
}

#[test]
fn without_a_certificate_there_is_no_configuration() {
    let identity = nobody_issues().of(&ObjectName::new("shop", "web"));
    assert_eq!(identity.client(identity.id()).unwrap_err(), NoIdentity::NotYetIssued);
    assert_eq!(identity.server().unwrap_err(), NoIdentity::NotYetIssued);
}

#[test]
fn an_expired_certificate_is_shown_to_nobody() {
    let root = Root::new();
    let now = SystemTime::now();
    let life = Life { not_before: now - Duration::from_secs(7200), not_after: now - Duration::from_secs(1) };
    let identities = root.identities_of("cluster.local", &[], &[&root], Some(life));
    let identity = identities.of(&ObjectName::new("shop", "web"));
    assert_eq!(identity.client(identity.id()).unwrap_err(), NoIdentity::Expired);
    assert_eq!(identity.server().unwrap_err(), NoIdentity::Expired);
}

#[test]
fn a_name_that_could_spell_another_s_id_gets_none() {
    let identities = Root::new().identities();
    for (namespace, account) in
        [("shop", "web/../db"), ("shop/sa/web", "x"), ("shop", ""), ("", "web"), ("shop", "a b")]
    {
        let identity = identities.of(&ObjectName::new(namespace, account));
        assert_eq!(identity.server().unwrap_err(), NoIdentity::Refused, "{namespace} {account}");
    }
}

#[test]
fn an_identity_is_shared_and_forgotten_with_its_last_user() {
    let identities = nobody_issues();
    let account = ObjectName::new("shop", "web");
    let (one, two) = (identities.of(&account), identities.of(&account));
    assert!(std::sync::Arc::ptr_eq(&one.0, &two.0));
    let former = std::sync::Arc::downgrade(&one.0);
    drop((one, two));
    assert!(former.upgrade().is_none());
}
