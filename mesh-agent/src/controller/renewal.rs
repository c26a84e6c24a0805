//! When the controller's own root takes another's place, and how its Secret says so. Pure.
//!
//! At half of its life a new root is made and published beside it, while the old one still signs. Once everybody trusts both, the
//! new one signs. Once nobody can have a certificate of the old one, that goes. Roots of others are never renewed, nor
//! taken out of what is trusted: an authority of cert-manager's is cert-manager's business.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::CertificateDer;

use crate::identity::authority::AuthorityError;
use crate::identity::issuer::{self, BACKDATE};
use crate::identity::x509::{self, Facts};
use crate::tls::files;

/// Whose roots are the controller's own.
pub const SUBJECT: &str = "CN=mesh-agent root";
/// An operator's wish for a new root before its time, whatever its value.
pub const RENEW: &str = "mesh-agent.dev/renew-root";
/// Since when the root that signs does so, in Unix seconds.
const SIGNS_SINCE: &str = "mesh-agent.dev/signs-since";
/// Keys of the Secret: chain, key, roots.
pub const KEYS: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// What will sign.
const NEXT: [&str; 2] = ["next.crt", "next.key"];
/// Until every agent has read a new root: kubelets take minutes, a node that is away until it is back.
const SPREAD: Duration = Duration::from_secs(24 * 3600);
/// A short life leaves less: one of its so many parts.
const SPREAD_PARTS: u32 = 10;

/// What renewal goes by.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Life of a root that is made.
    pub life: Duration,
    /// So long after another root signs, no certificate of the old one lives any more.
    pub hold: Duration,
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A new root is published beside the one that signs.
    Published,
    /// The new root signs, the old one is still trusted.
    Signs,
    /// The old root is trusted no longer.
    Dropped,
}

impl Phase {
    /// For people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Published => {
                "a new root was made and published; the old one signs until everybody has read it"
            }
            Self::Signs => {
                "the new root signs; the old one is trusted until none of its certificates is left"
            }
            Self::Dropped => "the old root is trusted no longer",
        }
    }
}

type Root = (CertificateDer<'static>, Facts);

impl Plan {
    /// The Secret as it should become, and what that means; none while nothing is due, or where the root is somebody else's.
    ///
    /// # Errors
    /// A root can't be made.
    pub fn step(&self, secret: &Secret, now: SystemTime) -> Result<Option<(Secret, Phase)>, AuthorityError> {
        let signing = roots(secret, KEYS[0]);
        let [signing] = signing.as_slice() else { return Ok(None) };
        if !is_own(signing) {
            return Ok(None);
        }
        if let Some(next) = roots(secret, NEXT[0]).first() {
            let due = now >= made(&next.1) + spread(&signing.1);
            return Ok(due.then(|| (switched(secret, now), Phase::Signs)));
        }
        let trusted = roots(secret, KEYS[2]);
        let old = |root: &&Root| is_own(root) && root.0 != signing.0;
        let Some(first) = trusted.iter().find(old) else {
            return match is_due(secret, &signing.1, now) {
                true => self.begun(secret, now).map(|secret| Some((secret, Phase::Published))),
                false => Ok(None),
            };
        };
        // Nobody knows since when: as long as it takes from now.
        let since = since(secret).unwrap_or(now);
        let gone = now >= since + self.hold || now >= first.1.not_after;
        Ok(gone.then(|| (without(secret, &trusted, |root| old(&root)), Phase::Dropped)))
    }

    fn begun(&self, secret: &Secret, now: SystemTime) -> Result<Secret, AuthorityError> {
        let made = issuer::root(SUBJECT, self.life, now)?;
        let mut new = secret.clone();
        let data = new.data.get_or_insert_default();
        let roots = data.entry(KEYS[2].to_owned()).or_default();
        if roots.0.last().is_some_and(|last| *last != b'\n') {
            roots.0.push(b'\n');
        }
        roots.0.extend_from_slice(made.certificate.as_bytes());
        data.insert(NEXT[0].to_owned(), ByteString(made.certificate.into_bytes()));
        data.insert(NEXT[1].to_owned(), ByteString(made.key.as_bytes().to_vec()));
        new.metadata.annotations.get_or_insert_default().remove(RENEW);
        Ok(new)
    }
}

/// How often the Secret of a root with such a life is looked at.
pub fn look(life: Duration) -> Duration {
    (life / 60).clamp(Duration::from_secs(1), Duration::from_secs(10))
}

fn switched(secret: &Secret, now: SystemTime) -> Secret {
    let mut new = secret.clone();
    let data = new.data.get_or_insert_default();
    for (to, from) in KEYS.into_iter().zip(NEXT) {
        if let Some(bytes) = data.remove(from) {
            data.insert(to.to_owned(), bytes);
        }
    }
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    new.metadata.annotations.get_or_insert_default().insert(SIGNS_SINCE.to_owned(), seconds.to_string());
    new
}

fn without(secret: &Secret, trusted: &[Root], gone: impl Fn(&Root) -> bool) -> Secret {
    let kept = trusted.iter().filter(|root| !gone(root)).map(|root| super::serve::pem(&root.0));
    let mut new = secret.clone();
    let data = new.data.get_or_insert_default();
    data.insert(KEYS[2].to_owned(), ByteString(kept.collect::<String>().into_bytes()));
    new
}

fn is_own((_, facts): &Root) -> bool {
    facts.subject == SUBJECT && facts.issuer == SUBJECT
}

fn is_due(secret: &Secret, signing: &Facts, now: SystemTime) -> bool {
    let wanted = secret.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(RENEW));
    wanted || now >= made(signing) + life(signing) / 2
}

/// Its life begins earlier, for clocks that are behind.
fn made(facts: &Facts) -> SystemTime {
    facts.not_before + BACKDATE
}

fn life(facts: &Facts) -> Duration {
    facts.not_after.duration_since(made(facts)).unwrap_or_default()
}

fn spread(signing: &Facts) -> Duration {
    SPREAD.min(life(signing) / SPREAD_PARTS)
}

fn since(secret: &Secret) -> Option<SystemTime> {
    let text = secret.metadata.annotations.as_ref()?.get(SIGNS_SINCE)?;
    Some(UNIX_EPOCH + Duration::from_secs(text.parse().ok()?))
}

/// What can be read of it; what can't is found out by whoever signs with it.
fn roots(secret: &Secret, key: &str) -> Vec<Root> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    let all = bytes.and_then(|bytes| files::certificates_in(key.as_ref(), &bytes.0).ok()).unwrap_or_default();
    all.into_iter().filter_map(|root| x509::facts(&root).ok().map(|facts| (root, facts))).collect()
}

#[cfg(test)]
mod tests;
