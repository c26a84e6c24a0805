//! X-Forwarded-Client-Cert: where a request arrives, what a client put there itself goes, and what its certificate says may come
//! instead.
//!
//! Asked by `access` before tokens, policies and providers, so that all of them see what the application will. The client is
//! who `identity` says; `element` is the header's text. A request that has no such header and gets none isn't touched.

pub(crate) mod element;

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request;
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use self::element::Element;
use super::access::Passing;
use super::backend::Picked;
use super::context::{Connection, Direction};
use crate::identity::{SpiffeId, x509};
use crate::model::Workload;

/// Envoy's name for it.
const SPELLED: &str = "x-forwarded-client-cert";
const NAME: HeaderName = HeaderName::from_static(SPELLED);

/// What the application is told of its client's certificate: Envoy's `forward_client_cert_details`, as far as it lets nobody
/// speak for somebody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// Nothing.
    #[default]
    Sanitize,
    /// What the certificate of a client that has proven itself says.
    SanitizeSet,
}

/// True for the header's name in any case, and as those servers read it that make variables of names (RFC 3875, 4.1.18), to
/// which `_` and `-` are the same.
pub fn is_name(name: &[u8]) -> bool {
    let same = |(a, b): (&u8, u8)| a.eq_ignore_ascii_case(&b) || (*a, b) == (b'_', b'-');
    name.len() == SPELLED.len() && name.iter().zip(SPELLED.bytes()).all(same)
}

/// Takes it out of a header section, however often it is there. Nothing happens to one without it.
pub fn remove(headers: &mut HeaderMap) {
    while let Some(name) = found(headers).cloned() {
        headers.remove(name);
    }
}

/// Its text, for a client with this certificate at a workload that is known as `by`. None: the certificate can't be read.
pub fn value(by: &SpiffeId, client: &SpiffeId, certificate: &CertificateDer<'_>) -> Option<HeaderValue> {
    let facts = x509::facts(certificate).ok()?;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let element = Element {
        by: by.as_str(),
        hash: &x509::hex(hash.as_ref()),
        subject: &facts.subject,
        uri: client.as_str(),
    };
    // A subject may have bytes that no header has.
    HeaderValue::try_from(element.to_string()).ok()
}

fn found(headers: &HeaderMap) -> Option<&HeaderName> {
    headers.keys().find(|name| is_name(name.as_str().as_bytes()))
}

impl Connection {
    /// Notes the certificate that the client of an inbound connection has proven itself with, which the peer's identity is from.
    pub(super) fn note_client_cert(&self, certificate: Option<&CertificateDer<'_>>) {
        if self.pod.worker.forward_client_cert == ForwardClientCert::Sanitize {
            return;
        }
        let (by, client) = (self.reached_as.get(), self.peer.get());
        if let (Some(by), Some(client), Some(certificate)) = (by, client, certificate)
            && let Some(value) = value(by, client, certificate)
        {
            let _ = self.client_cert.set(value);
        }
    }

    /// The client is that of `carrier`, in which this connection is carried.
    pub(super) fn note_client_cert_of(&self, carrier: &Self) {
        if let Some(value) = carrier.client_cert.get() {
            let _ = self.client_cert.set(value.clone());
        }
    }

    /// Takes out of a request that arrives where an agent is asked about it, this one, what its client says of a certificate,
    /// and puts in what is known of it.
    pub(super) fn replace_client_cert(&self, picked: Option<&Picked>, passing: &mut Passing<'_>) {
        let sets = self.pod.worker.forward_client_cert == ForwardClientCert::SanitizeSet;
        let said = found(&passing.head().headers).is_some();
        if !said && !sets {
            return;
        }
        let Some((there, _)) = self.arrives_at(picked) else { return };
        let value = if sets { self.client_cert_for(&there) } else { None };
        if said || value.is_some() {
            put(passing.change(), value);
        }
    }

    fn client_cert_for(&self, there: &Arc<Workload>) -> Option<HeaderValue> {
        match self.direction {
            Direction::Inbound => self.client_cert.get().cloned(),
            Direction::Outbound => self.own_cert_for(there),
        }
    }

    /// Of this connection's pod as the client of another one of its node, as if its agent had shaken hands with that one's.
    /// Made once for a connection and endpoint.
    fn own_cert_for(&self, there: &Arc<Workload>) -> Option<HeaderValue> {
        let key = Arc::as_ptr(there).addr();
        if let Some((_, value)) = self.own_certs.borrow().get(&key) {
            return Some(value.clone());
        }
        let identity = self.pod.identity.borrow();
        // Of another service account than the connection was opened as, it says nothing about this client.
        let client = Some(identity.id()).filter(|id| Some(id.as_str()) == self.proven_identity())?;
        let by = SpiffeId::new(client.trust_domain(), &there.name.namespace, &there.service_account);
        let value = value(&by, client, &identity.certificate().ok()?)?;
        self.own_certs.borrow_mut().insert(key, (there.clone(), value.clone()));
        Some(value)
    }
}

fn put(head: &mut request::Parts, value: Option<HeaderValue>) {
    remove(&mut head.headers);
    if let Some(value) = value {
        head.headers.insert(NAME, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_known_however_it_is_spelled() {
        for name in [
            "x-forwarded-client-cert",
            "X-Forwarded-Client-Cert",
            "X_FORWARDED_CLIENT_CERT",
            "x-forwarded_client-cert",
        ] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "x-forwarded-client-certs",
            "x-forwarded-client-cer",
            "x-forwarded-for",
            "x.forwarded.client.cert",
            "y-forwarded-client-cert",
        ] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
    }
}
