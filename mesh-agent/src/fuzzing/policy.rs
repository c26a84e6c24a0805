//! AuthorizationPolicies: read, compiled and asked.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;

use super::{headers, parts};
use crate::authz::{Compiled, Facts, Normalization, Options, Policy, Readings, RequestFacts};
use crate::objects::{Action, AuthorizationPolicy};

/// A policy that is taken judges every request, and gives the rule that decides among those that fit. An object's YAML, then
/// method, path, host, identity, and lines of fields, with NULs between.
pub fn authorization(data: &[u8]) {
    let [object, method, path, host, identity, fields] = parts(data, 0);
    let Ok(policy) = read(object) else { return };
    let (action, dry_run) =
        (policy.spec.action, policy.metadata.annotations.contains_key("istio.io/dry-run"));
    let options = Options::default();
    let compiled = Compiled::new(vec![Arc::new(Policy::new(&policy, &options))]);
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let (source, destination): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let identity = Some(text(identity)).filter(|identity| !identity.is_empty());
    let connection = Facts::new(identity, source, (destination, 8080));
    let _ =
        (compiled.judge(&connection), compiled.denies_for_good(&connection), compiled.explain(&connection));

    let Ok(uri) = Uri::try_from(path) else { return };
    for how in [Normalization::None, Normalization::Base, Normalization::DecodeAndMergeSlashes] {
        let mut readings = Readings::default();
        if readings.read(uri.path(), how).is_err() {
            continue;
        }
        let headers = headers(fields);
        let facts = connection.asking(RequestFacts {
            method: text(method),
            host: Some(text(host)),
            path: &readings,
            headers: &headers,
            remote: source,
            claims: None,
        });
        let judged = compiled.judge(&facts);
        let fits = compiled.explain(&facts).iter().any(|considered| considered.fits);
        // What one policy comes to, said in another way than the tables say it.
        if !dry_run {
            match action {
                Action::Deny => assert_eq!(judged.verdict.is_denied(), fits),
                Action::Audit | Action::Custom => assert!(!judged.verdict.is_denied()),
                Action::Allow if !fits => assert!(judged.verdict.is_denied()),
                Action::Allow => {}
            }
        }
        if judged.verdict.is_denied() {
            assert!(!compiled.policies().is_empty());
        }
    }
}

fn read(object: &[u8]) -> Result<AuthorizationPolicy, ()> {
    let document: serde_yaml_ng::Value = serde_yaml_ng::from_slice(object).map_err(|_| ())?;
    let mut policy: AuthorizationPolicy = serde_yaml_ng::from_slice(object).map_err(|_| ())?;
    policy.note_fields(&document);
    policy.validate().map_err(|_| ())?;
    Ok(policy)
}
