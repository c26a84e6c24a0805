//! Whose request it is, where it arrives: its tokens held against the rules that hold for the pod, and what a client gets whose
//! token doesn't.
//!
//! Asked by `access` before authorization, which gets the claims. `crate::jwt` judges; a worker remembers what held. No token is
//! ever logged.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HOST, HeaderValue, WWW_AUTHENTICATE};
use http::{StatusCode, request};

use super::answer::LocalAnswer;
use super::context::Worker;
use super::error::ErrorKind;
use crate::jwt::{Authenticated, Authentication, Refusal, Refused};

/// Of a URL so much is told back (Envoy, jwt_authn).
const LONGEST_REALM: usize = 256;

impl Worker {
    /// Judges a request's tokens.
    ///
    /// # Errors
    /// With the answer to give instead.
    pub(super) fn authenticate(
        &self,
        rules: &Authentication,
        head: &request::Parts,
    ) -> Result<Authenticated, LocalAnswer> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let judged = rules.check(head, &mut self.tokens.borrow_mut(), now);
        let outcome = match &judged {
            Ok(Authenticated { claims: None, .. }) => "none",
            Ok(_) => "accepted",
            Err(refused) => refused.why.label(),
        };
        self.telemetry.metrics.agent().jwt_authentications.with_label_values(&[outcome]).inc();
        judged.map_err(|Refused { why, rule }| {
            let rule = rule.map(|rule| format!("{} jwtRules[{}]", rule.object, rule.index));
            tracing::debug!(reason = why.label(), rule, "a token doesn't hold");
            refusal(head, why)
        })
    }
}

/// What Envoy's jwt_authn filter answers.
fn refusal(head: &request::Parts, why: Refusal) -> LocalAnswer {
    let status = why.status();
    let headers = match status {
        StatusCode::UNAUTHORIZED => {
            let told = format!("Bearer realm=\"{}\", error=\"invalid_token\"", realm(head));
            HeaderValue::try_from(told).map(|value| (WWW_AUTHENTICATE, value)).into_iter().collect()
        }
        _ => Vec::new(),
    };
    LocalAnswer {
        body: Cow::Borrowed(why.told()),
        why: Some(ErrorKind::Unauthenticated(why)),
        ..LocalAnswer::new(status, headers)
    }
}

/// The URL that was asked for, cut to a bound; without what would end the quoted text, and without its query, which may be
/// where the token is.
fn realm(head: &request::Parts) -> String {
    let host = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = host.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
    let mut out = String::from("http://");
    for byte in host.iter().chain(head.uri.path().as_bytes()) {
        if out.len() >= LONGEST_REALM {
            break;
        }
        match byte {
            b'"' | b'\\' => out.push_str(&format!("%{byte:02X}")),
            0x21..=0x7e => out.push(char::from(*byte)),
            _ => out.push('?'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    #[test]
    fn a_client_is_told_what_envoy_tells_and_no_more() {
        let head = Request::get("/a\"b?access_token=secret").header("host", "cart.shop").body(()).unwrap();
        let head = head.into_parts().0;
        let answer = refusal(&head, Refusal::Expired);
        assert_eq!((answer.status.as_u16(), answer.grpc_status, &*answer.body), (401, 16, "Jwt is expired"));
        let told = answer.headers[0].1.to_str().unwrap();
        assert_eq!(told, "Bearer realm=\"http://cart.shop/a%22b\", error=\"invalid_token\"");
        let answer = refusal(&head, Refusal::Audience);
        assert_eq!((answer.status.as_u16(), answer.grpc_status, answer.headers.len()), (403, 7, 0));
        for why in Refusal::ALL {
            let told = refusal(&head, *why);
            let said = format!("{:?} {}", told.headers, told.body).to_lowercase();
            assert!(!said.contains("jwks") && !said.contains("secret") && !said.contains("key"), "{said}");
        }
    }

    #[test]
    fn a_realm_is_bounded() {
        let long = format!("http://h/{}", "x".repeat(10_000));
        let head = Request::get(long).body(()).unwrap().into_parts().0;
        assert!(realm(&head).len() <= LONGEST_REALM + 3);
    }
}
