//! How identities and their issuer are, for people: the admin API's rows, warnings and metrics. Never a key.

use std::sync::{PoisonError, Weak};
use std::time::SystemTime;

use super::x509::{self, Facts};
use super::{Identities, NoIdentity, Slot, Standing};
use crate::admin::api;
use crate::model::{Warning, WarningCode};

/// What the thread of certificates last did for an identity.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// When it is requested next. None: it is being requested.
    pub next: Option<SystemTime>,
    /// Half of the remaining life is over and no renewal succeeded.
    pub late: bool,
    /// Why the last request failed.
    pub error: Option<String>,
}

/// How the issuer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub issuer: String,
    /// The development root's.
    pub development: bool,
    /// What its configuration lacks.
    pub problem: Option<String>,
    pub last_issued: Option<SystemTime>,
    /// Why the last request failed, and when. None: the last one didn't.
    pub failure: Option<(SystemTime, String)>,
}

impl Identities {
    /// Every identity in use, by namespace and service account.
    pub fn list(&self) -> Vec<api::Certificate> {
        let now = SystemTime::now();
        let issuer = self.0.health.load().issuer.clone();
        let row = |slot: &Slot| row(slot, now, &issuer);
        let mut rows: Vec<_> = self.slots().iter().filter_map(Weak::upgrade).map(|slot| row(&slot)).collect();
        rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        rows
    }

    fn slots(&self) -> Vec<Weak<Slot>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn roots(&self) -> Vec<Facts> {
        let bundle = self.0.trust.bundle();
        bundle.certificates.iter().filter_map(|root| x509::facts(root).ok()).collect()
    }

    /// The issuer and the trust bundle.
    pub fn status(&self) -> api::Identity {
        let health = self.0.health.load();
        let rows = self.list();
        let count = |state: api::CertificateState| rows.iter().filter(|row| row.state == state).count();
        let root = |facts: Facts| api::Root {
            subject: facts.subject,
            serial: facts.serial,
            not_after: facts.not_after,
        };
        let failure = health.failure.clone();
        api::Identity {
            trust_domain: self.0.trust.domain().to_owned(),
            aliases: self.0.trust.aliases().to_vec(),
            issuer: health.issuer.clone(),
            development: health.development,
            problem: health.problem.clone(),
            last_issued: health.last_issued,
            last_failure: failure.as_ref().map(|(at, _)| *at),
            last_error: failure.map(|(_, why)| why),
            roots: self.roots().into_iter().map(root).collect(),
            certificates: rows.len(),
            valid: count(api::CertificateState::Valid),
            without: rows
                .iter()
                .filter(|row| row.serial.is_empty() || row.state == api::CertificateState::Expired)
                .map(|row| format!("{}/{}", row.namespace, row.name))
                .collect(),
        }
    }

    /// What somebody has to look after.
    pub fn warnings(&self) -> Vec<Warning> {
        let health = self.0.health.load();
        let mut all = Vec::new();
        if let Some(problem) = &health.problem {
            let message = format!("the issuer {} can't be used as it is: {problem}", health.issuer);
            all.push(Warning::new(WarningCode::IssuerUnusable, "", "ca", message));
        }
        for row in self.list() {
            let account = format!("ServiceAccount {}/{}", row.namespace, row.name);
            let why = if row.reason.is_empty() { "" } else { ": " };
            let (code, message) = match row.state {
                api::CertificateState::Valid => continue,
                api::CertificateState::Pending if row.reason.is_empty() => continue,
                api::CertificateState::Late => (
                    WarningCode::CertificateNotRenewed,
                    format!("its certificate isn't renewed and serves until it expires{why}{}", row.reason),
                ),
                api::CertificateState::Pending
                | api::CertificateState::Refused
                | api::CertificateState::Expired => (
                    WarningCode::NoCertificate,
                    format!(
                        "it has no certificate, so that its pods' connections to other nodes and from them are refused{why}{}",
                        row.reason
                    ),
                ),
            };
            all.push(Warning::new(code, account, "", message).at(health.issuer.clone()));
        }
        all
    }
}

fn row(slot: &Slot, now: SystemTime, issuer: &str) -> api::Certificate {
    let report = slot.report.load();
    let standing = slot.standing.load();
    let mut row = api::Certificate {
        namespace: slot.account.namespace.clone(),
        name: slot.account.name.clone(),
        id: slot.id.to_string(),
        state: api::CertificateState::Pending,
        serial: String::new(),
        not_before: None,
        not_after: None,
        next_renewal: report.next,
        issuer: issuer.to_owned(),
        root: String::new(),
        reason: report.error.clone().unwrap_or_default(),
    };
    match &**standing {
        Standing::Without(NoIdentity::Refused) => row.state = api::CertificateState::Refused,
        Standing::Without(NoIdentity::NotYetIssued | NoIdentity::Expired) => {}
        Standing::With(svid) => {
            row.state = match (svid.facts.not_after < now, report.late) {
                (true, _) => api::CertificateState::Expired,
                (false, true) => api::CertificateState::Late,
                (false, false) => api::CertificateState::Valid,
            };
            row.serial.clone_from(&svid.facts.serial);
            (row.not_before, row.not_after) = (Some(svid.facts.not_before), Some(svid.facts.not_after));
            row.root.clone_from(&svid.root);
        }
    }
    row
}
