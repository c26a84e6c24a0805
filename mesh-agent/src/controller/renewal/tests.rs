//! A root's renewal from Secret to Secret, by a clock that the tests set.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const PLAN: Plan = Plan { life: Duration::from_secs(1000 * 86_400), hold: Duration::from_secs(2 * 86_400) };

fn secret_of(subject: &str, now: SystemTime) -> Secret {
    let root = issuer::root(subject, PLAN.life, now).unwrap();
    let texts = [root.certificate.as_bytes(), root.key.as_bytes(), root.certificate.as_bytes()];
    let data = KEYS.into_iter().zip(texts).map(|(key, text)| (key.to_owned(), ByteString(text.to_vec())));
    Secret { data: Some(data.collect()), ..Secret::default() }
}

fn due(secret: &Secret, now: SystemTime) -> Option<(Secret, Phase)> {
    PLAN.step(secret, now).unwrap()
}

fn subjects_of(secret: &Secret, key: &str) -> usize {
    roots(secret, key).len()
}

#[test]
fn an_old_root_is_trusted_until_its_last_certificate_is_gone() {
    let begin = SystemTime::now();
    let first = secret_of(SUBJECT, begin);
    assert!(due(&first, begin + 499 * DAY).is_none());
    let half = begin + 500 * DAY;
    let (both, phase) = due(&first, half).unwrap();
    assert_eq!((phase, subjects_of(&both, "ca.crt")), (Phase::Published, 2));
    assert_eq!(
        roots(&both, "tls.crt"),
        roots(&first, "tls.crt"),
        "the old one signs until all have read both"
    );
    assert!(due(&both, half + DAY - Duration::from_secs(5)).is_none());
    let later = half + DAY + Duration::from_secs(5);
    let (signs, phase) = due(&both, later).unwrap();
    assert_eq!((phase, subjects_of(&signs, "ca.crt")), (Phase::Signs, 2));
    assert_eq!(roots(&signs, "tls.crt"), roots(&both, "next.crt"));
    assert_eq!(signs.data.as_ref().unwrap()["tls.key"], both.data.as_ref().unwrap()["next.key"]);
    assert!(!signs.data.as_ref().unwrap().keys().any(|key| key.starts_with("next")), "no key is left behind");
    assert!(due(&signs, later + 2 * DAY - Duration::from_secs(5)).is_none());
    let (last, phase) = due(&signs, later + 2 * DAY).unwrap();
    assert_eq!((phase, roots(&last, "ca.crt")), (Phase::Dropped, roots(&signs, "tls.crt")));
    assert!(due(&last, later + 3 * DAY).is_none());
}

#[test]
fn a_renewal_waits_its_time_though_it_was_late() {
    let begin = SystemTime::now();
    let (both, _) = due(&secret_of(SUBJECT, begin), begin + 500 * DAY).unwrap();
    // No controller ran for a month: certificates of the old root were signed until now.
    let (signs, _) = due(&both, begin + 530 * DAY).unwrap();
    assert!(due(&signs, begin + 531 * DAY).is_none());
    let mut unknown = signs.clone();
    unknown.metadata.annotations = None;
    assert!(due(&unknown, begin + 900 * DAY).is_none(), "nobody knows since when");
    assert_eq!(
        due(&unknown, begin + 1001 * DAY).unwrap().1,
        Phase::Dropped,
        "what has expired is trusted by nobody"
    );
}

#[test]
fn an_operators_wish_is_followed_once() {
    let begin = SystemTime::now();
    let mut first = secret_of(SUBJECT, begin);
    first.metadata.annotations = Some(BTreeMap::from([(RENEW.to_owned(), "now".to_owned())]));
    let (both, phase) = due(&first, begin).unwrap();
    assert_eq!(phase, Phase::Published);
    assert!(!both.metadata.annotations.unwrap().contains_key(RENEW));
}

#[test]
fn roots_of_others_are_left_alone() {
    let begin = SystemTime::now();
    let late = begin + 900 * DAY;
    assert!(due(&secret_of("CN=somebody", begin), late).is_none());
    assert!(due(&Secret::default(), late).is_none());
    // One that an operator trusts besides stays through a renewal.
    let mut first = secret_of(SUBJECT, begin);
    let other = secret_of("CN=somebody", begin).data.unwrap().remove("ca.crt").unwrap();
    first.data.as_mut().unwrap().get_mut("ca.crt").unwrap().0.extend_from_slice(&other.0);
    let (both, _) = due(&first, begin + 500 * DAY).unwrap();
    let (signs, _) = due(&both, begin + 502 * DAY).unwrap();
    let (last, _) = due(&signs, begin + 505 * DAY).unwrap();
    let left: Vec<String> = roots(&last, "ca.crt").into_iter().map(|(_, facts)| facts.subject).collect();
    assert_eq!(left, ["CN=somebody", SUBJECT]);
}
