//! Open connections are judged again when the configuration changes, and closed if they aren't allowed any more: by
//! AuthorizationPolicies, or since mutual TLS is required where they came in plain text.
//!
//! Beside `tcp`, for as long as bytes go both ways. Requests need none of it: each is judged when it comes.

use std::future::pending;

use http::request;

use super::{Refused, judge_request};
use crate::jwt::Claims;
use crate::proxy::backend::Picked;
use crate::proxy::context::Connection;
use crate::proxy::error::ErrorKind;

impl Connection {
    /// Ends once this connection may not go on. Who is asked besides policies was asked when it began.
    pub(in crate::proxy) async fn until_denied(&self, picked: &Picked) -> ErrorKind {
        self.until(|| {
            let arrival = self.arrival(Some(picked))?;
            let rule = self.judge_connection(&arrival, |judged, _| {
                judged.verdict.is_denied().then(|| judged.verdict.rule().cloned())
            })?;
            Some(Refused { arrival, rule, for_good: true })
        })
        .await
    }

    /// The same of a connection that a request with this `head` and token made of two.
    pub async fn until_request_denied(
        &self,
        picked: &Picked,
        head: &request::Parts,
        claims: Option<&Claims>,
    ) -> ErrorKind {
        self.until(|| {
            let arrival = self.arrival(Some(picked))?;
            let denied = judge_request(self, &arrival, head, claims, |judged| {
                judged.verdict.is_denied().then(|| judged.verdict.rule().cloned())
            });
            let rule = denied.ok()??;
            Some(Refused { arrival, rule, for_good: true })
        })
        .await
    }

    async fn until(&self, refused: impl Fn() -> Option<Refused>) -> ErrorKind {
        let mut changed = self.pod.worker.changed.subscribe();
        loop {
            // What changed before it was admitted was judged then; what changed since shows here.
            self.follow_configuration();
            if !self.may_stay() {
                self.pod.worker.count_refused(ErrorKind::PlainTextRefused.label());
                return ErrorKind::PlainTextRefused;
            }
            if let Some(refused) = refused() {
                self.refused.replace(Some(refused));
                return ErrorKind::Denied;
            }
            if changed.changed().await.is_err() {
                // The worker holds a sender itself.
                pending::<()>().await;
            }
        }
    }
}
